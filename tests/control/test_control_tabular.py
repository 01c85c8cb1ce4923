"""Small exact problems, their solvers, and the environments made of them."""

import numpy as np
import pytest
from control_worlds import SMALL
from hypothesis import given, settings
from hypothesis import strategies as st
from test_control_snapshot import play

from unirl.control import ControlDomain
from unirl.control.envs import make_env
from unirl.control.point_mass import lqr
from unirl.control.snapshot import Snapshot, restore, snapshot
from unirl.control.tabular import (
    STITCHING,
    STITCHING_TRAJECTORIES,
    TabularMDP,
    bandit,
    chain,
    greedy,
    occupancy,
    policy_evaluation,
    random_mdp,
    stitching,
    value_iteration,
)

UNIFORM = np.full((3, 2), 0.5)


def test_the_chain_by_hand():
    # 0 -> 1 -> 2 pays 1 on entering 2: V* = gamma, 1, 0
    value, q = value_iteration(chain(3), gamma=0.9)
    np.testing.assert_allclose(value, [0.9, 1.0, 0.0])
    # going left first costs a detour: Q(0, left) = .9 * .9, Q(1, left) = .9 * .9
    np.testing.assert_allclose(q[:2], [[0.81, 0.9], [0.81, 1.0]])
    assert greedy(q)[:2].tolist() == [[0, 1], [0, 1]]


def test_a_uniform_walk_by_hand():
    # v0 = .9 (v0 + v1) / 2 and v1 = 1 / 2 + .9 v0 / 2:  v0 (1 - .45 - .2025) = .225
    value, q = policy_evaluation(chain(3), UNIFORM, gamma=0.9)
    v0 = 0.225 / 0.3475
    np.testing.assert_allclose(value, [v0, 0.5 + 0.45 * v0, 0.0])
    np.testing.assert_allclose(q[1], [0.9 * v0, 1.0])


def test_slips_pay_too():
    # length 2: one decision, right arrives with probability .7, left with .3
    _, q = value_iteration(chain(2, slip=0.3), gamma=0.0)
    np.testing.assert_allclose(q[0], [0.3, 0.7])


def test_soft_values_of_a_bandit_by_hand():
    value, q = value_iteration(bandit([0.0, 1.0]), temperature=0.5)
    assert value[0] == pytest.approx(0.5 * np.log(np.exp(0) + np.exp(2)))
    np.testing.assert_allclose(greedy(q, 0.5)[0], np.array([1, np.e**2]) / (1 + np.e**2))


def test_occupancy_of_a_walk_to_the_right_by_hand():
    # (1 - .5) (1, .5, .25 + .125 + ...) = (.5, .25, .25)
    right = np.tile([0.0, 1.0], (3, 1))
    np.testing.assert_allclose(occupancy(chain(3), right, gamma=0.5)[:, 1], [0.5, 0.25, 0.25])


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000), gamma=st.floats(0.1, 0.95))
def test_identities_of_random_problems(seed, gamma):
    mdp = random_mdp(states=6, actions=3, branching=2, seed=seed)
    rng = np.random.default_rng(seed)
    policy = rng.dirichlet(np.ones(3), 6)
    value, q = policy_evaluation(mdp, policy, gamma)
    visits = occupancy(mdp, policy, gamma)
    best, best_q = value_iteration(mdp, gamma)
    np.testing.assert_allclose(value, (policy * q).sum(1))
    assert visits.sum() == pytest.approx(1.0) and (visits >= -1e-12).all()
    # the return is the mean reward under the occupancy: (1 - gamma) E V(s0) = sum d r
    assert (1 - gamma) * mdp.start @ value == pytest.approx((visits * mdp.reward).sum())
    assert (best >= value - 1e-9).all()
    np.testing.assert_allclose(policy_evaluation(mdp, greedy(best_q), gamma)[0], best, atol=1e-8)


@settings(max_examples=30)
@given(seed=st.integers(0, 10_000))
def test_the_soft_optimum_is_the_value_plus_the_entropy_of_its_own_policy(seed):
    mdp, temperature, gamma = random_mdp(states=5, actions=3, branching=2, seed=seed), 0.3, 0.6
    value, q = value_iteration(mdp, gamma, temperature)
    policy = greedy(q, temperature)
    entropy = -(policy * np.log(policy)).sum(1)
    paid = TabularMDP(mdp.transition, mdp.reward + temperature * entropy[:, None], mdp.start, mdp.terminal)
    np.testing.assert_allclose(policy_evaluation(paid, policy, gamma)[0], value, atol=1e-8)


def test_the_stitching_graph_leads_from_a_to_e_though_no_trajectory_does():
    value, q = value_iteration(stitching(goal="E"), gamma=0.5)
    # A -> C -> E: 1 a step before E, .5 two steps before
    assert dict(zip(STITCHING, value, strict=True)) == {"A": 0.5, "B": 0.0, "C": 1.0, "D": 0.5, "E": 0.0}
    assert not any({"A", "E"} <= set(path) for path in STITCHING_TRAJECTORIES)
    assert STITCHING[q[0].argmax()] == "C" and STITCHING[q[2].argmax()] == "E"


def test_probabilities_must_sum_to_one():
    with pytest.raises(ValueError, match="must sum to 1"):
        TabularMDP(np.ones((2, 1, 2)), np.zeros((2, 1)), np.array([1.0, 0.0]), np.zeros(2, bool))
    with pytest.raises(ValueError, match=r"transition is \[S, A, S\]"):
        TabularMDP(np.ones((2, 1, 3)) / 3, np.zeros((2, 1)), np.array([1.0, 0.0]), np.zeros(2, bool))


def test_lqr_of_a_scalar_by_hand():
    # p = 1 + p - p^2 / (2 + p):  p^2 = 2 + p, p = 2; k = p / (2 + p) = 1/2
    one = np.eye(1)
    gain, cost = lqr(one, one, one, 2 * one)
    assert gain.item() == pytest.approx(0.5) and cost.item() == pytest.approx(2.0)


ENVIRONMENTS = ["Chain", "Bandit", "RandomMDP", "Stitching", "PointMass", "Peaks"]


@pytest.mark.parametrize("name", ENVIRONMENTS)
def test_environments_roll_out_and_restore_from_a_file(name):
    env = make_env({"env": f"unirl/{name}-v0"})
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(20)]
    env.reset(seed=1)
    saved = snapshot(env)
    expected = play(env, actions)
    other = make_env({"env": f"unirl/{name}-v0"})
    other.reset(seed=2)
    assert np.array_equal(play(restore(other, Snapshot.from_state(saved.state_dict())), actions), expected)
    batch = ControlDomain({"env": f"unirl/{name}-v0"}, SMALL).rollout(2)
    assert bool(batch.mask.any())


def test_the_environment_draws_what_the_arrays_say():
    env = make_env({"env": "unirl/Chain-v0", "env_kwargs": {"length": 2, "slip": 0.3, "reward_std": 0.1}})
    ended, paid = [], []
    for seed in range(2000):
        env.reset(seed=seed)
        _, reward, terminated, _, _ = env.step(1)
        ended.append(terminated)
        paid.append(reward)
    assert np.mean(ended) == pytest.approx(0.7, abs=0.04)  # four standard errors
    assert np.mean(paid) == pytest.approx(0.7, abs=0.01) and np.std(paid) == pytest.approx(0.1, rel=0.07)


def test_the_linear_policy_earns_what_the_riccati_equation_says():
    env = make_env({"env": "unirl/PointMass-v0", "env_kwargs": {"max_episode_steps": 400, "action_cost": 1.0}})
    gain, cost = lqr(np.eye(2), 0.1 * np.eye(2), np.eye(2), np.eye(2))
    assert np.abs(gain).max() < 1  # never cut off at the bounds
    env.reset(seed=0)
    start, total, over = env.unwrapped.position.copy(), 0.0, False
    while not over:
        _, reward, _, over, _ = env.step(-gain @ env.unwrapped.position)
        total += reward
    assert -total == pytest.approx(start @ cost @ start, rel=1e-6)


def test_peaks_by_hand():
    env = make_env({"env": "unirl/Peaks-v0"})
    env.reset(seed=0)
    # at a peak: its height, and .8 e^(-(1/.15)^2 / 2) = 1.8e-10 of the other
    assert env.step(np.array([0.5], np.float32))[1] == pytest.approx(1.0)
