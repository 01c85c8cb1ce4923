"""With one step per batch `old_logp` is the first evaluation's own `logp`: no pass for it, the same weights."""

import pytest
import torch

from unirl.config import compose
from unirl.run import build
from unirl.trainer.loop import Trainer

SMALL = {
    "control": ["task=inverted_pendulum", "evaluation_episodes=1", "method.source.rows=64"],
    "llm": ["task=addition", "evaluation_episodes=8", "method.source.rows=16"],
}
ONE_STEP = ["method.update.epochs=1", "method.update.minibatches=1"]
# what makes the numbers needed before the first evaluation, or the first evaluation not the only one
NOT_SO = {
    "two epochs": ("grpo", ["method.update.epochs=2"]),
    "two minibatches": ("grpo", ["method.update.minibatches=2"]),
    "a selection that reads it": ("grpo", ["method.selection=[{name: engine_correction}]"]),
    "a reward that reads it": ("grpo", ["method.rewards=[{name: kl_in_reward, to: ref, coef: 0.1}]"]),
    "a look-ahead": ("grpo", ["method.update.gradient=extragradient"]),
    "perturbations": ("grpo", ["method.update.gradient={name: evolution, pairs: 1}"]),
    "each loss apart": ("grpo", ["method.update.gradient=project_conflicts"]),
}


def made(method: str, domain: str, folder: object, *more: str) -> Trainer:
    words = [f"method={method}", f"domain={domain}", *SMALL[domain], *ONE_STEP, "iterations=4", *more]
    return build(compose([*words, f"out={folder}"]), None)


def asked(trainer: Trainer) -> list[str]:
    """What the domain is asked for in one iteration, before the update and in it."""
    names: list[str] = []
    score = trainer.domain.score

    def noted(batch, need):
        names.extend(need)
        return score(batch, need)

    trainer.domain.score = noted
    trainer.iterate()
    return names


@pytest.mark.parametrize(
    ("domain", "more"),
    [("control", []), ("llm", []), ("llm", ["domain.token_budget=128"])],
    ids=["control", "llm", "llm in micro-batches"],
)
@pytest.mark.parametrize("method", ["grpo", "ppo", "mdpo"])
def test_one_step_needs_no_forward_pass_for_old_logp_and_ends_at_the_same_weights(method, domain, more, tmp_path):
    short, long = made(method, domain, tmp_path / "a", *more), made(method, domain, tmp_path / "b", *more)
    long._takes_old_logp_from_logp = False  # type: ignore[misc]
    assert "old_logp" not in asked(short)
    assert "old_logp" in asked(long)
    for trainer in (short, long):
        trainer.iterate()
        trainer.iterate()
    for (name, weight), other in zip(
        short.domain.policy.state_dict().items(), long.domain.policy.state_dict().values(), strict=True
    ):
        assert torch.equal(weight, other), name
    assert short._means.take() == pytest.approx(long._means.take(), abs=1e-6)


@pytest.mark.parametrize("case", NOT_SO)
@pytest.mark.parametrize("domain", SMALL)
def test_it_is_computed_where_it_is_read_before_or_after_the_first_evaluation(case, domain, tmp_path):
    method, more = NOT_SO[case]
    assert "old_logp" in asked(made(method, domain, tmp_path, *more))
