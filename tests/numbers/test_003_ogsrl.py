"""OGSRL [3]: the guardian, the world of logged data, costs, and the constraint on them."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from helpers import rows
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor
from torch.testing import assert_close

from unirl import make
from unirl.config import compose
from unirl.control import ControlDomain
from unirl.control.logged_world import Guardian, Log, LoggedWorld, Scaler, dosing, dosing_log
from unirl.errors import UserError
from unirl.run import build

PEAK = 0.7456865  # 1 / (.535 sqrt(2 pi))


def test_the_peak_of_one_kernel():
    guardian = Guardian.fit(np.array([[3.0, 4.0]]))
    assert guardian.density(np.array([[3.0, 4.0]])).item() == pytest.approx(PEAK, abs=5e-8)
    assert pytest.approx(1 / (0.535 * math.sqrt(2 * math.pi)), abs=5e-8) == PEAK


def test_the_density_of_two_points_by_hand():
    # 0 and 4 become -1 and 1: squared distance 4 at each other, 1 in the middle
    guardian = Guardian.fit(np.array([[0.0], [4.0]]))
    far, middle = math.exp(-4 / (2 * 0.535**2)), math.exp(-1 / (2 * 0.535**2))
    np.testing.assert_allclose(guardian.density(np.array([[0.0], [2.0]])), [PEAK * (1 + far) / 2, PEAK * middle], 1e-7)


@pytest.mark.parametrize("count", [100, 200, 333])
def test_one_training_point_in_twenty_is_refused(count):
    points = np.random.default_rng(count).standard_normal((count, 3))
    assert abs(int(Guardian.fit(points).refuses(points).sum()) - 0.05 * count) <= 1


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.floats(0.1, 10.0), st.floats(-5.0, 5.0))
def test_units_do_not_matter(seed, factor, shift):
    points = np.random.default_rng(seed).standard_normal((20, 2))
    plain, changed = Guardian.fit(points), Guardian.fit(points * factor + shift)
    np.testing.assert_allclose(changed.density(points * factor + shift), plain.density(points), rtol=1e-6)


def test_a_feature_that_never_changes_is_zero():
    assert Scaler.fit(np.array([[1.0, 5.0], [3.0, 5.0]]))(np.array([[2.0, 7.0]])).tolist() == [[0.0, 0.0]]


def small_log(**changes):
    # three states in a line; action 0 stays and pays -5, action 1 moves on and pays -1 or -20
    columns = {
        "observation": np.array([[0.0], [0.0], [1.0], [1.0]]),
        "action": np.array([[0.0], [1.0], [0.0], [1.0]]),
        "reward": np.array([-5.0, -1.0, -5.0, -20.0]),
        "next_observation": np.array([[0.0], [1.0], [1.0], [2.0]]),
        "cost": np.array([0.0, 1.0, 0.0, 0.5]),
        "first": np.array([0]),
    }
    return Log(**{**columns, **changes})


def test_what_happens_is_what_happened_at_the_nearest_pair():
    world = LoggedWorld(small_log())
    world.reset(seed=0)
    steps = [world.step(np.array([a])) for a in (0.4, 0.9, 0.7)]
    assert [s[0].tolist() for s in steps] == [[0.0], [1.0], [2.0]]
    assert [s[1] for s in steps] == [-5.0, -2.5, -12.5]  # -1 and -20 are clipped
    assert [s[4]["cost"] for s in steps] == [0.0, 1.0, 0.5]


def test_a_refused_pair_ends_the_simulation_for_good():
    log = small_log()
    world = LoggedWorld(log, Guardian.fit(log.pairs, bandwidth=0.1, share=0.0))
    world.reset(seed=0)
    assert world.step(np.array([0.0]))[1] == -5.0
    for action in (0.5, 0.0, 1.0):  # between two kernels of width .1; then back on them, too late
        observation, reward, terminated, _, info = world.step(np.array([action]))
        assert (observation.tolist(), reward, terminated) == ([0.0], -25.0, False)
        assert info == {"cost": 1.0, "refused": True}
    world.reset(seed=0)
    assert world.step(np.array([0.0]))[1] == -5.0


def test_costs_of_a_log_are_not_negative():
    with pytest.raises(UserError, match="costs are 0 or positive"):
        small_log(cost=np.array([0.0, -1.0, 0.0, 0.0]))


GUARDIAN = dosing().guardian
TASK = {"env": "unirl/Dosing-v0"}
SMALL = {"hidden": [16], "activation": "tanh"}


@pytest.mark.parametrize("envs", [1, 3])
def test_costs_come_with_roll_outs_and_evaluations(envs):
    domain = ControlDomain(TASK, SMALL, envs=envs, parallel_episodes=3, normalize_reward=False)
    batch = domain.rollout(8)
    refused = batch.reward == -25.0
    assert batch.rewards["cost"].shape == batch.reward.shape == (8, 20)
    assert (batch.rewards["cost"][refused] == 1.0).all() and (batch.rewards["cost"] >= 0).all() and refused.any()
    segment = domain.rollout(30, unit="segment")
    assert (segment.rewards["cost"][segment.reward == -25.0] == 1.0).all()
    assert segment.rewards["cost"].shape == (envs, 30 // envs)
    found = domain.evaluate(5)
    assert 0 <= found["cost"] <= 20 and found == domain.evaluate(5)


def test_a_world_without_costs_reports_none():
    domain = ControlDomain({"env": "unirl/PointMass-v0"}, SMALL)
    assert "rewards.cost" not in domain.rollout(2).replace(rewards={"other": torch.zeros(2)})
    assert "cost" not in domain.evaluate(1)


def episodes(**fields):
    # two rows of two decisions, each an episode
    given = {
        "reward": [[1.0, 2.0], [3.0, 4.0]],
        "terminated": [[False, True], [False, True]],
        "truncated": [[False, False], [False, False]],
        "value": torch.zeros(2, 2, 2, dtype=torch.float64),
        "next_value": torch.zeros(2, 2, 2, dtype=torch.float64),
        "rewards": {"cost": [[1.0, 0.0], [0.0, 2.0]]},
    }
    return rows(**{**given, **fields})


def test_advantages_of_rewards_and_costs_by_hand():
    # gamma .5, lam 1, no values: rewards 1 + .5 * 2, 2 and 3 + .5 * 4, 4; costs 1, 0 and .5 * 2, 2; J = (1 + 1) / 2
    batch = make("advantage", "gae_with_cost", gamma=0.5, lam=1.0)(episodes())
    assert batch.advantage.tolist() == [[2.0, 2.0], [5.0, 4.0]]
    assert batch.cost_advantage.tolist() == [[1.0, 0.0], [1.0, 2.0]]
    assert float(batch.episode_cost) == 1.0 and float(batch.episode_length) == 2.0


@settings(max_examples=30)
@given(st.integers(0, 10_000))
def test_each_head_is_the_usual_advantage_of_its_own_reward(seed):
    generator = torch.Generator().manual_seed(seed)
    values = {name: torch.randn(2, 2, 2, generator=generator) for name in ("value", "next_value")}
    batch = episodes(**values)
    joint, gae = make("advantage", "gae_with_cost")(batch), make("advantage", "gae")
    for head, (reward, name) in enumerate(((batch.reward, ""), (batch.rewards["cost"], "cost_"))):
        own = gae(batch.replace(reward=reward, value=values["value"][head], next_value=values["next_value"][head]))
        assert_close(getattr(joint, f"{name}advantage"), own.advantage)
        assert_close(getattr(joint, f"{name}returns"), own.returns)


def test_both_values_are_regressed_on_their_returns():
    values = torch.zeros(2, 1, 2, requires_grad=True)
    batch = rows(value_pred=values, returns=[[1.0, 2.0]], cost_returns=[[3.0, 0.5]], mask=torch.ones(1, 2).bool())
    loss = make("critic", "v_with_cost").loss(batch)
    assert loss.tolist() == [[10.0, 4.25]]
    loss.sum().backward()
    assert values.grad.tolist() == [[[-2.0, -4.0]], [[-6.0, -1.0]]]


def limited(logp):
    return rows(
        logp=logp,
        old_logp=[[0.0, 0.0], [0.0, 0.0]],
        cost_advantage=[[1.0, -1.0], [0.5, 2.0]],
        episode_cost=tensor(0.8),
        episode_length=tensor(2.0),
        mask=torch.ones(2, 2).bool(),
    )


def test_the_constraint_is_the_excess_at_the_old_policy_and_its_gradient_that_of_an_episodes_cost():
    logp = torch.zeros(2, 2, dtype=torch.float64, requires_grad=True)
    batch = limited(logp)
    excess = make("reduce", "token_mean")(make("regularizer", "cost_limit", limit=0.5)(batch), batch)
    assert excess.item() == pytest.approx(0.3)
    excess.backward()
    # the mean over the two episodes of the sum of A: 1 / 2 for every decision
    assert_close(logp.grad, tensor([[0.5, -0.5], [0.25, 1.0]], dtype=torch.float64))


def test_the_constraint_counts_ratios():
    # ratio 2 for the first decision: .3 + 2 * (2 - 1) * 1 / 4
    batch = limited([[math.log(2), 0.0], [0.0, 0.0]])
    assert make("regularizer", "cost_limit")(batch).mean().item() == pytest.approx(0.3 + 0.5)


def test_a_limit_is_not_negative():
    with pytest.raises(UserError, match="limit is -1"):
        make("regularizer", "cost_limit", limit=-1)


def test_the_log_is_a_line_and_doses_cost():
    log = dosing_log(episodes=50)
    assert np.corrcoef(log.observation[:, 0], log.action[:, 0])[0, 1] > 0.9
    assert 0.0 < log.cost.mean() < 0.2 and len(log.first) == 50


def trained(guard, iterations, **cuts):
    """The domain after some iterations, and the mean density of what it then does."""
    words = ["method=ogsrl", "task=dosing", f"task.env_kwargs.guard={guard}", "domain.normalize_observation=false"]
    trainer = build(compose([*words, f"iterations={max(iterations, 1)}", *(f"{k}={v}" for k, v in cuts.items())]), None)
    for _ in range(iterations):
        trainer.iterate()
    domain: Any = trainer.domain
    batch = domain.rollout(32)
    pairs = [batch.inputs["observation"].numpy(), domain.actions.to_env(batch.inputs["action"].numpy())]
    return domain, float(GUARDIAN.density(np.concatenate(pairs, -1)).mean())


def test_a_few_updates_move_the_policy_within_its_radius():
    cuts = {"method.source.rows": 4, "method.update.epochs": 2, "method.update.actor_every": 2}
    domain, density = trained("true", 2, **cuts)
    assert density > 0 and domain.policy.log_std.item() != -0.5


@pytest.mark.slow
def test_the_guarded_policy_stays_where_the_log_is_and_the_unguarded_one_does_not():
    # measured with seed 0: densities 0.37 and 0.06 about a level of 0.17; an episode's cost falls from 17 to 0.1
    far = {
        "method.update.gradient.damping": 0.1,
        "method.update.gradient.radius": 0.03,
        "method.constraints.cost.limit": 20,
    }
    guarded, density = trained("true", 40)
    _, exploited = trained("false", 40, **far)
    assert density > 1.5 * GUARDIAN.level > GUARDIAN.level > 1.5 * exploited
    assert guarded.evaluate(32, sampled=True)["cost"] < 1.5
    assert trained("true", 0)[0].evaluate(32, sampled=True)["cost"] > 10
