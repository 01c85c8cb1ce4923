"""Making environments, scaling actions, and errors a user can cause."""

import gymnasium as gym
import numpy as np
import pytest
from control_worlds import CLOCK

from unirl.control.envs import ActionSpace, Envs, make_env
from unirl.errors import UserError


@pytest.mark.parametrize(
    ("task", "message"),
    [
        ({"env": "Hoper-v5"}, r"unknown environment 'Hoper-v5' \(task.env\); did you mean .*Hopper-v5"),
        ({"env": "Hopper-v9"}, "unknown environment 'Hopper-v9'.*did you mean .*Hopper-v"),
        ({"env": None}, "task.env is missing"),
        ({"env": "LunarLander-v3"}, "cannot be made: .*Box2D is not installed"),
        ({"env": "Hopper-v5", "env_kwargs": {"gravity": 1}}, "refuses its arguments .*gravity"),
        ({"env": "unirl-test/Endless-v0"}, r"no time limit; set one: task.env_kwargs.max_episode_steps"),
    ],
)
def test_environments_that_cannot_be_made_say_what_would_be_right(task, message):
    with pytest.raises(UserError, match=message) as caught:
        make_env(task)
    assert "\n" not in str(caught.value)


def test_a_time_limit_can_be_given():
    env = make_env({"env": "unirl-test/Endless-v0", "env_kwargs": {"max_episode_steps": 2, "life": 9}})
    env.reset(seed=0)
    env.step(np.zeros(1, dtype=np.float32))
    assert env.step(np.zeros(1, dtype=np.float32))[2:4] == (False, True)


def test_observations_that_are_not_vectors_are_flattened():
    assert make_env({"env": "FrozenLake-v1"}).observation_space.shape == (16,)  # one-hot of 16 fields


def test_actions_are_scaled_to_the_bounds_and_clipped():
    # Clock's bounds are [-2, 6]: centre 2, half-range 4
    actions = ActionSpace(make_env(CLOCK).action_space)
    np.testing.assert_allclose(actions.to_env(np.array([[-1.0], [0.0], [0.5], [1.0], [7.0]])).ravel(), [-2, 2, 4, 6, 6])
    np.testing.assert_allclose(actions.from_env(np.array([[-2.0], [4.0]])).ravel(), [-1.0, 0.5])


def test_unbounded_actions_are_left_alone():
    actions = ActionSpace(gym.spaces.Box(-np.inf, np.inf, (2,)))
    assert actions.to_env(np.array([5.0, -7.0])).tolist() == [5.0, -7.0]
    assert not actions.bounded


def test_choices_may_start_above_zero():
    actions = ActionSpace(gym.spaces.Discrete(3, start=2))
    assert actions.to_env(np.array([0, 2])).tolist() == [2, 4]
    assert actions.from_env(np.array([2, 4])).tolist() == [0, 2]


def test_uniform_log_density():
    assert ActionSpace(gym.spaces.Box(-3, 3, (2,))).uniform_logp() == pytest.approx(2 * np.log(0.5))
    assert ActionSpace(gym.spaces.Discrete(4)).uniform_logp() == pytest.approx(np.log(0.25))


def test_costs_come_with_every_step_or_with_none():
    class Toll(gym.Wrapper):
        steps = 0

        def step(self, action):
            *outcome, info = self.env.step(action)
            self.steps += 1
            return (*outcome, info | {"cost": 0.5} if self.steps > 1 else info)

    envs = Envs(lambda: Toll(make_env({"env": "CartPole-v1"})), 1, 4)
    envs.reset(0, seed=0)
    assert envs.step(np.array([0])).cost is None
    with pytest.raises(UserError, match=r"info\['cost'\] in some steps only; report 0.0"):
        envs.step(np.array([0]))


def test_unsupported_action_spaces_are_refused():
    with pytest.raises(UserError, match="it must be a Discrete or a flat Box"):
        ActionSpace(gym.spaces.MultiBinary(3))


def test_some_environments_can_be_stepped_without_the_others():
    envs = Envs(lambda: make_env(CLOCK), 3, 2)
    for index in range(3):
        envs.reset(index, seed=index)
    step = envs.step(np.zeros((2, 1), dtype=np.float32), [0, 2])
    assert step.observation[:, 0].tolist() == [1.0, 1.0]
    assert envs.observation[:, 0].tolist() == [1.0, 0.0, 1.0]


def test_mujoco_does_not_repeat_gymnasiums_deprecations(capfd):
    make_env({"env": "HalfCheetah-v5"}).reset(seed=0)
    assert "deprecated" not in capfd.readouterr().err
