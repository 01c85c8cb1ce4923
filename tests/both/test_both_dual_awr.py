"""Dual RL's implicit maximum serves tokens as it serves torques: one file, both worlds."""

import pytest

from unirl.config import compose
from unirl.run import train

# Measured at these budgets, rise of one seed: 26.4 -> 705 on the pole, 0.575 -> 0.824 in addition. Without learning it
# is 0 by construction, as evaluation repeats the same starts and draws.
BUDGETS = {
    "control": (["task=inverted_pendulum", "samples=20480"], 100.0),
    "llm": (["task=addition", "iterations=15"], 0.08),
}


@pytest.mark.parametrize("domain", BUDGETS)
def test_dual_awr_learns_in_both_worlds(domain, tmp_path):
    words, least = BUDGETS[domain]
    config = compose(["method=dual_awr", *words, "evaluations=1", "checkpoints=0", f"out={tmp_path / 'run'}"])
    result = train(config)
    assert result["score_end"] - result["score_start"] > least, result
