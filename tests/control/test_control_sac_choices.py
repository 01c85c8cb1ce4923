"""SAC where actions are choices: every expectation over the policy is exact."""

import math

import pytest
import torch
from torch.testing import assert_close

from unirl.config import compose
from unirl.control import ControlDomain
from unirl.control.distributions import Categorical
from unirl.domain import QSpec, Requirements
from unirl.run import build, train

WORDS = ["method=sac", "task=gymnasium", "model=mlp_small", "checkpoints=0"]
ALPHA = 0.5


class Softmax(torch.nn.Module):
    """pi = softmax(Q / alpha), the optimal policy of a soft critic."""

    def __init__(self, critic: torch.nn.Module) -> None:
        super().__init__()
        self.critic = critic

    def forward(self, observation: torch.Tensor) -> Categorical:
        return Categorical.of_logits(self.critic(observation)[0] / ALPHA)


def test_of_the_optimal_policy_loss_and_target_are_the_soft_value():
    # V = alpha logsumexp(Q / alpha); the actor loss is -V, the target r + gamma V(s')
    domain = ControlDomain({"env": "CartPole-v1"}, {"hidden": [8]}, normalize_observation=False)
    domain.build(Requirements(q=QSpec(heads=1)))
    assert isinstance(domain.policy(torch.zeros(4)), Categorical)
    batch = domain.rollout(32, unit="segment")
    domain.policy = Softmax(domain.target_q)
    batch = domain.score(batch, {"q", "sample_logp", "next_q", "next_logp"})

    def soft_value(observation: torch.Tensor) -> torch.Tensor:
        return ALPHA * (domain.target_q(observation)[0] / ALPHA).logsumexp(-1)

    assert_close(batch.q[0] - ALPHA * batch.sample_logp, soft_value(batch.inputs["observation"]))
    assert_close(batch.next_q[0] - ALPHA * batch.next_logp, soft_value(batch.inputs["next_observation"]))


def test_sac_takes_choices_without_being_told():
    trainer = build(compose([*WORDS, "model.hidden=[8]", "method.source.warmup=200", "out=unused"]), None)
    assert trainer.domain.policy_kind == "categorical"
    assert_close(trainer.domain.info.target_entropy, 0.98 * math.log(2))  # Christodoulou 2019
    for _ in range(20):
        trainer.iterate()
    assert set(trainer._means.take()) >= {"loss/q", "loss/policy", "loss/temperature"}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_sac_learns_to_balance_a_pole_by_choices(seed, tmp_path):
    result = train(compose([*WORDS, "samples=4000", "evaluations=4", f"seed={seed}", f"out={tmp_path / 'run'}"]))
    assert result["score_end"] > 60  # a policy that always pushes one way: 9
