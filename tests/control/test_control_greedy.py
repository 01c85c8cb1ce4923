"""The policy that is read off a critic: greedy choices, exploration, Q-learning's targets."""

import math

import pytest
import torch
from torch import tensor
from torch.testing import assert_close

from unirl.config import compose
from unirl.control import ControlDomain
from unirl.control.greedy import Greedy
from unirl.domain import QSpec, Requirements
from unirl.errors import UserError
from unirl.run import build

CARTPOLE = {"env": "CartPole-v1"}
SMALL = {"hidden": [8], "activation": "tanh"}


def test_all_probability_is_on_the_best_choice():
    greedy = Greedy.of_values(tensor([[1.0, 3.0, 2.0], [5.0, 5.0, 4.0]]), epsilon=0.3)
    assert greedy.mode().tolist() == [1, 0]  # the first of equal ones
    assert_close(greedy.probs, tensor([[0.0, 1.0, 0.0], [1.0, 0.0, 0.0]]))
    assert_close(greedy.entropy(), tensor([0.0, 0.0]))


def test_exploration_is_uniform_with_probability_epsilon():
    # .7 + .1 for the best of three, .1 for each other
    greedy = Greedy.of_values(tensor([0.0, 1.0, 0.0]).expand(20000, 3), epsilon=0.3)
    action, logp, _ = greedy.sample(torch.Generator().manual_seed(0))
    share = action.bincount() / 20000
    assert_close(share, tensor([0.1, 0.8, 0.1]), atol=0.01, rtol=0)  # 3 standard errors are .008
    assert_close(logp, torch.where(action == 1, math.log(0.8), math.log(0.1)))


def greedy_domain(target_policy: bool) -> ControlDomain:
    domain = ControlDomain(CARTPOLE, SMALL, seed=3)
    domain.build(
        Requirements(
            q=QSpec(heads=1, target_policy=target_policy, tau=0.25),
            policy="greedy",
            policy_options={"epsilon": 0.5},
        )
    )
    with torch.no_grad():
        for parameter in domain.q.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=domain.generator))
    return domain


@pytest.mark.parametrize("double", [False, True])
def test_targets_of_q_learning_and_of_double_q_learning(double):
    domain = greedy_domain(target_policy=not double)
    batch = domain.score(domain.rollout(64, unit="segment"), {"next_q"})
    values, target = (critic(batch.inputs["next_observation"])[0] for critic in (domain.q, domain.target_q))
    assert (values.argmax(-1) != target.argmax(-1)).any()
    chosen = (values if double else target).argmax(-1, keepdim=True)
    assert_close(batch.next_q[0], target.gather(-1, chosen).squeeze(-1))


def test_the_target_policy_moves_as_the_target_critic_does():
    domain = greedy_domain(target_policy=True)
    domain.update_targets()
    for follower, target in zip(domain.target_policy.parameters(), domain.target_q.parameters(), strict=True):
        assert torch.equal(follower, target)
        assert not follower.requires_grad


def test_the_policy_has_no_weights_of_its_own_and_is_the_critics_after_a_restart():
    domain, other = greedy_domain(True), greedy_domain(True)
    assert domain.parameters("policy") == []
    with torch.no_grad():
        domain.q.biases[-1].copy_(tensor([[[0.0, 100.0]]]))
    other.load_state_dict(domain.state_dict())
    assert other.policy.critic is other.q
    assert other.policy(torch.zeros(4)).mode().item() == 1


def test_a_greedy_policy_needs_a_critic_and_choices():
    with pytest.raises(UserError, match="chooses by an action-value critic"):
        ControlDomain(CARTPOLE, SMALL | {"policy": "greedy"})
    with pytest.raises(UserError, match="needs an environment with choices"):
        ControlDomain({"env": "Hopper-v5"}, SMALL | {"policy": "greedy"})
    with pytest.raises(UserError, match=r"epsilon is 2.0; it lies in \[0, 1\]"):
        ControlDomain(CARTPOLE, SMALL).build(Requirements(q=QSpec(), policy="greedy", policy_options={"epsilon": 2}))


def test_dqn_steps_its_critic_alone():
    words = ["method=dqn", "task=gymnasium", "model.hidden=[8]", "method.source.warmup=200", "out=unused"]
    trainer = build(compose(words), None)
    trainer.iterate()
    assert set(trainer._means.take()) == {"loss/q"}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_dqn_learns_to_balance(seed, tmp_path):
    from unirl.run import train

    words = ["method=dqn", "task=gymnasium", "model=mlp_small", "samples=10000", "evaluations=4", "checkpoints=0"]
    result = train(compose([*words, f"seed={seed}", f"out={tmp_path / 'run'}"]))
    assert result["score_best"] > 100  # 9 to 26 before training
