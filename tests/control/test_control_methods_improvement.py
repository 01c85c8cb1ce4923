"""Methods whose actions are improved or priced before they are learned from: PA-RL, Symphony, best of n."""

from typing import Any

import pytest
import torch
from control_worlds import SMALL
from torch.testing import assert_close

from unirl.config import compose
from unirl.control import ControlDomain
from unirl.domain import QSpec, Requirements
from unirl.errors import UserError
from unirl.run import build, train
from unirl.trainer import generators
from unirl.trainer.checkpoint import read_checkpoint

WORDS = {
    "pa_rl": [
        *("iterations=12", "task.demonstrations.episodes=1", "method.source.batch=32", "method.critic.0.heads=3"),
        *("method.critic.1.candidates=2", "method.objective.candidates=4", "method.objective.keep=2"),
        "method.objective.steps=1",
    ],
    "symphony": ["iterations=20", "method.source.warmup=60", "method.source.batch=32"],
    "best_of_n": ["iterations=3", "method.source.rows=8", "method.source.group_size=4"],
}


COMMON = ["task=inverted_pendulum", "model=mlp_small", "evaluations=1", "evaluation_episodes=1", "checkpoints=1"]


@pytest.mark.parametrize("method", WORDS)
def test_a_few_updates(method, tmp_path):
    result = train(compose([f"method={method}", *COMMON, *WORDS[method], f"out={tmp_path / 'run'}"]))
    assert result["score_end"] > 0


@pytest.mark.parametrize("method", ["pa_rl", "symphony"])
def test_a_run_continues_as_if_it_had_not_been_stopped(method, tmp_path):
    config = compose([f"method={method}", *COMMON, *WORDS[method], f"out={tmp_path / 'run'}"])
    whole, later = build(config, None), build(config, None)
    for _ in range(3):
        whole.iterate()
    whole.checkpoint()
    later.load_state_dict(read_checkpoint(whole.folder))
    for trainer in (whole, later):
        generators.restore(read_checkpoint(whole.folder)["generators"])  # torch's global ones, which both share here
        trainer.iterate()
        trainer.iterate()
    for name, value in whole.domain.policy.state_dict().items():
        assert torch.equal(value, later.domain.policy.state_dict()[name]), name


def domain_of(requirements: Requirements, env: str = "Hopper-v5") -> ControlDomain:
    domain = ControlDomain({"env": env}, SMALL, normalize_observation=False, normalize_reward=False)
    domain.build(requirements)
    return domain


OPTIONS = {
    "candidates": 6,
    "keep": 3,
    "steps": 2,
    "step_size": 0.05,
    "ascent": "mean",
    "choice": "argmax",
    "include_recorded": False,
    "act": False,
}


def improving(**options) -> ControlDomain:
    models = {"improved_actions": {**OPTIONS, **options}}
    return domain_of(Requirements(q=QSpec(heads=3), policy="bounded_gaussian", models=models))


def test_targets_use_a_better_action_than_the_policys_own():
    plain, better = domain_of(Requirements(q=QSpec(heads=3), policy="bounded_gaussian")), improving()
    batch = plain.rollout(200, unit="segment")
    own, improved = (domain.score(batch, {"next_q"}).next_q.mean() for domain in (plain, better))
    assert improved > own  # target and critic are still the same network
    assert not better.score(batch, {"next_q"}).next_q.requires_grad


@pytest.mark.parametrize("choice", ["sample", "expectation", "argmax"])
def test_what_is_imitated_is_constant_and_within_bounds(choice):
    domain = improving(choice=choice)
    batch = domain.rollout(16, unit="segment")
    domain.score(batch, {"model.improved_logp"}).model["improved_logp"].sum().backward()
    assert all(parameter.grad is None for parameter in domain.q.parameters())
    assert all(parameter.grad is not None for parameter in domain.policy.parameters())


def test_imitating_improved_actions_raises_the_critics_value_of_the_policy():
    domain = improving(candidates=16, keep=1)
    batch = domain.rollout(64, unit="segment")
    before = domain.score(batch, {"q"}).q.mean().item()
    optimizer = torch.optim.Adam(domain.policy.parameters(), 0.01)
    for _ in range(30):
        optimizer.zero_grad()
        (-domain.score(batch, {"model.improved_logp"}).model["improved_logp"].mean()).backward()
        optimizer.step()
    assert domain.score(batch, {"q"}).q.mean().item() > before + 0.05


def test_the_best_improved_action_may_be_played():
    plain, acting = improving(), improving(act=True)
    batch = acting.rollout(50, unit="segment")
    assert_close(batch.behavior_logp, acting.score(batch, {"logp"}).logp, atol=1e-5, rtol=1e-5)
    assert batch.inputs["action"].abs().max() <= 1
    own = plain.rollout(50, unit="segment")
    values = [plain.score(played, {"q_data"}).q_data.mean() for played in (own, batch)]
    assert values[1] > values[0]
    assert acting.evaluate(2) == acting.evaluate(2) != plain.evaluate(2)


def test_improvement_refuses_what_it_cannot_do():
    for options in ({"keep": 7}, {"ascent": "max"}, {"choice": "best"}, {"steps": -1}):
        with pytest.raises(UserError):
            improving(**options)
    with pytest.raises(UserError, match="choices instead"):
        domain_of(Requirements(q=QSpec(), models={"improved_actions": OPTIONS}), env="CartPole-v1")


def symphony() -> ControlDomain:
    models: dict[str, dict[str, Any]] = {"action_scale": {}}
    return domain_of(Requirements(q=QSpec(heads=3, atoms=4), policy="symphony", models=models))


def test_the_next_target_value_passes_its_gradient_to_the_policy_alone():
    domain = symphony()
    batch = domain.score(domain.rollout(8, unit="segment"), {"next_target_q_pred", "q_data"})
    assert batch.next_target_q_pred.shape == batch.q_data.shape == (12, 1, 8)
    batch.next_target_q_pred.sum().backward()
    assert any(parameter.grad is not None for parameter in domain.policy.parameters())
    assert all(parameter.grad is None for parameter in (*domain.q.parameters(), *domain.target_q.parameters()))


def test_strength_and_damping_are_those_of_the_action_that_the_target_values():
    domain = symphony()
    names = {"model.next_scale", "model.next_damping", "next_target_q_pred"}
    batch = domain.score(domain.rollout(8, unit="segment"), names)
    outputs = torch.tanh(domain.policy.network(batch.inputs["next_observation"]) / 2)
    _, scale, damping = outputs.chunk(3, -1)
    assert_close(batch.model["next_scale"], scale.abs())
    assert_close(batch.model["next_damping"], damping.abs())


def test_only_a_symphony_policy_says_how_strongly_it_acts():
    domain = domain_of(Requirements(q=QSpec(), models={"action_scale": {}}))
    with pytest.raises(UserError, match="policies of kind symphony"):
        domain.score(domain.rollout(4, unit="segment"), {"model.next_scale"})
