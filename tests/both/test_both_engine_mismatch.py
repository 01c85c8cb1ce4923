"""How far the sampler is from the trained policy, measured and corrected in whole runs."""

import json
from math import log

import pytest

from unirl.config import compose
from unirl.run import build, train

SMALL = {
    "control": ["domain=control", "task=inverted_pendulum", "evaluation_episodes=1"],
    "llm": ["domain=llm", "task=addition", "evaluation_episodes=8"],
}
ONLINE = ["grpo", "rloo", "ppo", "reinforce", "mdpo"]


def typed(method, domain, folder, *more):
    return compose(
        [f"method={method}", *SMALL[domain], "iterations=2", "logs=2", "checkpoints=0", *more, f"out={folder}"]
    )


@pytest.mark.parametrize("domain", SMALL)
@pytest.mark.parametrize("method", ONLINE)
def test_every_online_method_logs_the_mismatch_in_both_worlds(method, domain, tmp_path):
    whole = method in ("grpo", "rloo", "reinforce")
    train(typed(method, domain, tmp_path, f"method.source.rows={16 if whole or domain == 'llm' else 256}"))
    records = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    first = next(record for record in records if "loss/policy" in record)
    assert 0 <= first["policy/engine_kl"] < 1e-6  # one policy, sampled and scored: rounding alone
    assert first["policy/engine_max_ratio"] == pytest.approx(1.0, abs=1e-2)


PLAIN = ["method.source.rows=16", "method.regularizers=[]", "method.update.name=sgd"]
CORRECTION = "method.selection=[{name: engine_correction, mode: mask, low: 0.5, high: 5.0}]"


@pytest.mark.parametrize("domain", SMALL)
def test_a_correction_named_on_the_command_line_decides_what_a_run_learns_from(domain, tmp_path):
    # an engine that reports every decision as ten times as likely as it is: all ratios are .1, and nothing is learnt
    trainer = build(typed("grpo", domain, tmp_path, CORRECTION, *PLAIN), None)
    rollout = trainer.domain.rollout

    def moved():
        before = [parameter.clone() for parameter in trainer.domain.parameters("policy")]
        trainer.iterate()
        return any((a != b).any() for a, b in zip(before, trainer.domain.parameters("policy"), strict=True))

    def exaggerated(n, **options):
        batch = rollout(n, **options)
        return batch.replace(behavior_logp=batch.behavior_logp + log(10.0))

    assert moved()
    trainer.domain.rollout = exaggerated
    assert not moved()
