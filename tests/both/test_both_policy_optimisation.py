"""A2C, TRPO and LOOP, one file each, in both worlds: small budgets, rises far above what an untrained policy shows."""

import pytest

from unirl.config import compose
from unirl.run import train

SMALL_STEPS = "method.update.gradient.iterations=5"
RUNS = {
    ("a2c", "control"): (["task=inverted_pendulum", "samples=8000"], 15.0),
    ("a2c", "llm"): (["task=addition", "iterations=8"], 0.05),
    ("loop", "control"): (["task=inverted_pendulum", "samples=30000"], 15.0),
    ("loop", "llm"): (["task=addition", "iterations=8"], 0.05),
    ("trpo", "control"): (["task=inverted_pendulum", "samples=6144"], 10.0),
    ("trpo", "llm"): (["task=addition", "iterations=3", "method.source.rows=64", SMALL_STEPS], 0.05),
}


@pytest.mark.parametrize(("method", "domain"), RUNS)
def test_policy_gradients_of_three_kinds_train_both_worlds(method, domain, tmp_path):
    words, least = RUNS[method, domain]
    words = [f"method={method}", *words, "evaluations=1", "checkpoints=0", f"out={tmp_path / 'run'}"]
    result = train(compose(words))
    assert result["score_end"] - result["score_start"] > least, result
