"""Restoring an environment: the same actions lead to the same bits."""

import numpy as np
import pytest
from control_worlds import CLOCK

from unirl.control.envs import ActionSpace, make_env
from unirl.control.snapshot import Snapshot, restore, snapshot
from unirl.trainer.statefile import load_state, save_state

WORLDS = [
    "Hopper-v5",
    "HalfCheetah-v5",
    "Ant-v5",
    "Humanoid-v5",
    "Reacher-v5",
    "Pusher-v5",
    "CartPole-v1",
    "Pendulum-v1",
]


def play(env, actions):
    """Everything shown and paid, over resets, in float64."""
    seen = []
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        if terminated or truncated:
            observation, _ = env.reset()
        seen.append(np.concatenate([np.asarray(observation, dtype=np.float64), [reward, terminated, truncated]]))
    return np.array(seen)


def actions_for(env, count):
    space = ActionSpace(env.action_space)
    return space.to_env(space.uniform(count, np.random.default_rng(0)))


@pytest.mark.parametrize("name", [*WORLDS, CLOCK["env"]])
def test_same_actions_after_restore_give_identical_bits(name, tmp_path):
    env = make_env({"env": name})
    env.reset(seed=3)
    before, after = np.split(actions_for(env, 60), [20])
    play(env, before)
    saved = snapshot(env)
    expected = play(env, after)

    assert np.array_equal(play(restore(env, saved), after), expected)

    other = make_env({"env": name})
    other.reset(seed=4)
    assert np.array_equal(play(restore(other, saved), after), expected)

    save_state({"env": saved.state_dict()}, tmp_path)
    from_file = Snapshot.from_state(load_state(tmp_path)["env"])
    assert np.array_equal(play(restore(other, from_file), after), expected)


def test_the_time_limit_is_part_of_the_state():
    env = make_env({**CLOCK, "env_kwargs": {"life": 99}})
    env.reset(seed=0)
    saved = snapshot(env)
    for _ in range(2):
        play(env, np.zeros((3, 1), dtype=np.float32))
        env = restore(env, saved)
    assert [row[-1] for row in play(env, np.zeros((5, 1), dtype=np.float32))] == [0, 0, 0, 0, 1]


def test_a_snapshot_does_not_change_with_the_environment():
    env = make_env({"env": "Hopper-v5"})
    env.reset(seed=0)
    saved = snapshot(env)
    copied = saved.physics["integration"].copy()
    play(restore(env, saved), actions_for(env, 5))
    assert np.array_equal(saved.physics["integration"], copied)


def test_a_state_that_cannot_be_told_apart_is_copied_whole_and_not_written():
    env = make_env({"env": "unirl-test/Opaque-v0"})
    env.reset(seed=0)
    saved = snapshot(env)
    expected = play(env, np.zeros((7, 1), dtype=np.float32))
    assert np.array_equal(play(restore(env, saved), np.zeros((7, 1), dtype=np.float32)), expected)
    assert saved.state_dict() is None
