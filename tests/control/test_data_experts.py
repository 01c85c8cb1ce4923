import gymnasium as gym
import numpy as np
import pytest

import unirl.control.data  # noqa: F401  (registers the experts)
from unirl import make, names


def returns(env, expert, episodes):
    environment, act, totals = gym.make(env), make("expert", expert), []
    for seed in range(episodes):
        observation, total, over = environment.reset(seed=seed)[0], 0.0, False
        while not over:
            observation, reward, terminated, truncated, _ = environment.step(act(observation[None])[0])
            total, over = total + reward, terminated or truncated
        totals.append(total)
    return np.array(totals)


def test_the_linear_controller_balances_the_inverted_pendulum_to_the_last_step():
    assert (returns("InvertedPendulum-v5", "inverted_pendulum", 5) == 1000.0).all()


def test_the_pendulum_expert_swings_up_from_anywhere():
    # an episode costs at most a few swings: hanging still for 200 steps would cost 200 pi^2 = 1974
    totals = returns("Pendulum-v1", "pendulum", 10)
    assert totals.min() > -400.0 and totals.mean() > -200.0


def test_the_reacher_expert_reaches_targets():
    assert returns("Reacher-v5", "reacher", 10).mean() > -8.0


@pytest.mark.parametrize(("name", "size"), [("inverted_pendulum", 4), ("pendulum", 3), ("reacher", 10)])
def test_experts_act_on_batches_row_by_row(name, size):
    observation = np.random.default_rng(0).standard_normal((5, size))
    actions = make("expert", name)(observation)
    singly = np.concatenate([make("expert", name)(row[None]) for row in observation])
    np.testing.assert_allclose(actions, singly)


def test_experts_are_listed_with_what_they_do():
    assert "Linear state feedback" in names("expert")["inverted_pendulum"]
