import os
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import tensor
from torch.testing import assert_close

from unirl.control.data.d4rl import write_d4rl
from unirl.control.data.dataset import DataOptions, TransitionDataset, load_dataset, returns_to_go
from unirl.control.data.transitions import Transitions, episode_bounds
from unirl.errors import UserError

REAL = Path(os.environ.get("UNIRL_TEST_DATA") or Path(__file__).parents[3] / "shared" / "data") / "d4rl"


def recorded(rewards, terminals, timeouts, actions=None, size=2):
    """Rows whose observation is [row, -row, ...] and whose next observation is one more."""
    count = len(rewards)
    observations = np.arange(count, dtype=np.float32)[:, None] * np.where(np.arange(size) % 2, -1, 1)
    return Transitions(
        observations=observations.astype(np.float32),
        actions=np.zeros((count, 1), np.float32) if actions is None else np.asarray(actions, dtype=np.float32)[:, None],
        rewards=np.asarray(rewards, dtype=np.float32),
        next_observations=(observations + 1).astype(np.float32),
        terminals=np.asarray(terminals, dtype=bool),
        timeouts=np.asarray(timeouts, dtype=bool),
    )


def three_episodes():
    """Lengths 3 (terminal), 2 (timeout), 2 (the file ends)."""
    return recorded([1, 2, 3, 4, 5, 6, 7], [0, 0, 1, 0, 0, 0, 0], [0, 0, 0, 0, 1, 0, 0])


def hopper(count, **changes):
    rng = np.random.default_rng(0)
    fields = {
        "observations": rng.standard_normal((count, 11)).astype(np.float32),
        "actions": rng.uniform(-1, 1, (count, 3)).astype(np.float32),
        "rewards": np.arange(count, dtype=np.float32),
        "next_observations": rng.standard_normal((count, 11)).astype(np.float32),
        "terminals": np.arange(count) % 5 == 4,
        "timeouts": np.zeros(count, dtype=bool),
    }
    return Transitions(**(fields | changes))


class World:
    """What `load_dataset` asks of a domain."""

    def set_observation_statistics(self, mean, std):
        self.statistics = mean, std


def load(data, tmp_path, world=None, **task):
    path = write_d4rl(data, tmp_path / "hopper.hdf5")
    return load_dataset({"env": "Hopper-v5", "data": str(path), **task}, seed=0, domain=world or World())


def test_a_sampled_row_is_one_recorded_transition():
    data = three_episodes()
    batch = TransitionDataset(data, seed=1).sample(64)
    row = batch.inputs["observation"][:, 0, 0].long()
    assert batch.mask.shape == (64, 1) and bool(batch.mask.all())
    assert_close(batch.reward[:, 0], torch.from_numpy(data.rewards)[row])
    assert_close(batch.inputs["next_observation"], batch.inputs["observation"] + 1)
    assert_close(batch.terminated[:, 0], row == 2)
    assert_close(batch.truncated[:, 0], (row == 4) | (row == 6))
    assert_close(batch.reference_action, batch.inputs["action"])
    assert batch.source.tolist() == [2] * 64
    assert set(row.tolist()) == set(range(7))  # 64 draws of 7 rows: missing one has probability below 4e-4 at this seed


def test_draws_continue_after_a_restore_and_depend_on_the_seed():
    first, second = TransitionDataset(three_episodes(), seed=3), TransitionDataset(three_episodes(), seed=4)
    first.sample(5)
    state = first.state_dict()
    wanted = first.sample(50).reward
    assert not torch.equal(second.sample(50).reward, wanted)
    second.load_state_dict(state)
    assert_close(second.sample(50).reward, wanted)


def test_a_checkpoint_of_other_data_is_refused():
    state = TransitionDataset(three_episodes()).state_dict() | {"transitions": 8}
    with pytest.raises(UserError, match="trained on 8 transitions"):
        TransitionDataset(three_episodes()).load_state_dict(state)


def test_episodes_are_padded_rows_with_their_return():
    batch = TransitionDataset(three_episodes()).episodes()
    assert_close(batch.score, tensor([6.0, 9.0, 13.0]))
    assert batch.mask.tolist() == [[True, True, True], [True, True, False], [True, True, False]]
    assert_close(batch.reward, tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 0.0], [6.0, 7.0, 0.0]]))
    assert batch.terminated.tolist() == [[False, False, True], [False] * 3, [False] * 3]
    assert batch.truncated.tolist() == [[False] * 3, [False, True, False], [False, True, False]]
    assert_close(batch.inputs["observation"][1, :, 0], tensor([3.0, 4.0, 0.0]))


def test_chosen_episodes_are_whole():
    dataset = TransitionDataset(three_episodes())
    assert_close(dataset.episodes(tensor([2, 0])).score, tensor([13.0, 6.0]))


def test_segments_stay_within_episodes():
    dataset = TransitionDataset(three_episodes())
    batch = dataset.segments(2)  # rows 0-1, 3-4, 5-6; row 2 is left over
    assert_close(batch.reward, tensor([[1.0, 2.0], [4.0, 5.0], [6.0, 7.0]]))
    assert_close(batch.score, tensor([3.0, 9.0, 13.0]))
    firsts = set(dataset.sample_segments(200, 2).inputs["observation"][:, 0, 0].tolist())
    assert firsts == {0.0, 1.0, 3.0, 5.0}
    with pytest.raises(UserError, match="segments of 4 rows do not fit: the longest episode of the data has 3"):
        dataset.segments(4)


def test_returns_to_go_by_hand():
    # gamma 0.5: [1 + 0.5 (2 + 0.5 * 3), 2 + 0.5 * 3, 3 | 4 + 0.5 * 5, 5 | 6 + 0.5 * 7, 7]
    dataset = TransitionDataset(three_episodes(), DataOptions(gamma=0.5))
    batch = dataset.episodes()
    assert_close(batch.returns, tensor([[2.75, 3.5, 3.0], [6.5, 5.0, 0.0], [9.5, 7.0, 0.0]]))
    assert dataset.sample(4).returns.shape == (4, 1)
    assert "returns" not in TransitionDataset(three_episodes()).sample(4)


@settings(max_examples=30)
@given(st.lists(st.tuples(st.floats(-10, 10, width=32), st.booleans()), min_size=1, max_size=40), st.floats(0, 1))
def test_returns_to_go_satisfy_their_recursion(steps, gamma):
    rewards = np.array([reward for reward, _ in steps], dtype=np.float32)
    ends = np.array([end for _, end in steps])
    starts, lengths = episode_bounds(ends, np.zeros_like(ends))
    returns = returns_to_go(rewards, starts, lengths, gamma)
    ends[-1] = True
    following = np.where(ends, 0.0, np.append(returns[1:], 0.0))
    np.testing.assert_allclose(returns, rewards + gamma * following, rtol=1e-4, atol=1e-4)
    assert lengths.sum() == len(steps)


def test_rewards_are_scaled_by_the_range_of_returns_then_scaled_and_shifted():
    # returns 6, 9, 13: range 7; 1000 / 7 * 0.5 * r - 1
    options = DataOptions(normalize_reward=True, reward_scale=0.5, reward_shift=-1.0)
    dataset = TransitionDataset(three_episodes(), options)
    batch = dataset.episodes()
    assert_close(batch.reward[0], tensor([1.0, 2.0, 3.0]) * 500 / 7 - 1)
    assert_close(batch.score, tensor([6.0, 9.0, 13.0]))  # as recorded
    assert dataset.summary()["return_max"] == 13.0


def test_rewards_of_equal_returns_cannot_be_normalised():
    with pytest.raises(UserError, match="range of episode returns, which is 0 here"):
        TransitionDataset(recorded([1, 1], [1, 1], [0, 0]), DataOptions(normalize_reward=True))


def test_observations_are_normalised_by_population_statistics():
    # rows 0..6: mean 3, variance (9 + 4 + 1 + 0 + 1 + 4 + 9) / 7 = 4, std 2
    dataset = TransitionDataset(three_episodes(), DataOptions(normalize_observation=True))
    assert_close(dataset.observation_mean, tensor([3.0, -3.0]))
    assert_close(dataset.observation_std, tensor([2.0, 2.0]))
    batch = dataset.episodes()
    assert_close(batch.inputs["observation"][0, :, 0], (tensor([0.0, 1.0, 2.0]) - 3) / 2.001)
    assert_close(batch.inputs["next_observation"][0, :, 0], (tensor([1.0, 2.0, 3.0]) - 3) / 2.001)
    assert_close(batch.inputs["observation"][1, 2], tensor([0.0, 0.0]))  # padding


def test_actions_are_in_units_of_the_half_range():
    data = recorded([1, 1, 1], [0, 0, 1], [0, 0, 0], actions=[-3.0, 0.0, 1.5])
    bounds = {"action_low": np.array([-3.0], np.float32), "action_high": np.array([3.0], np.float32)}
    batch = TransitionDataset(data, **bounds).episodes()
    assert_close(batch.inputs["action"][0, :, 0], tensor([-1.0, 0.0, 0.5]))
    unbounded = {"action_low": np.array([-np.inf], np.float32), "action_high": np.array([np.inf], np.float32)}
    assert_close(TransitionDataset(data, **unbounded).episodes().inputs["action"][0, :, 0], tensor([-3.0, 0.0, 1.5]))


def test_summary_counts():
    facts = TransitionDataset(three_episodes()).summary()
    assert (facts["transitions"], facts["episodes"], facts["terminated"], facts["truncated"]) == (7, 3, 1, 2)
    assert facts["return_mean"] == pytest.approx(28 / 3) and "normalized_score" not in facts


def test_the_domain_is_told_the_statistics_it_has_to_evaluate_with(tmp_path):
    world = World()
    dataset = load(hopper(20), tmp_path, world, data_options={"normalize_observation": True})
    mean, std = world.statistics
    assert_close(mean, dataset.observation_mean)
    assert_close(std, dataset.observation_std + 1e-3)
    silent = World()
    load(hopper(20), tmp_path, silent)
    assert not hasattr(silent, "statistics")


def test_data_that_does_not_fit_the_environment_is_refused_in_one_line(tmp_path):
    outside = hopper(20)
    outside.actions[13, 2] = 1.37
    smaller = hopper(20, observations=np.zeros((20, 9)), next_observations=np.zeros((20, 9)))
    for data, words in (
        (outside, r"hopper.hdf5 row 13: action 1.37 is outside Hopper-v5's range \[-1, 1\].*clip_actions=true clips"),
        (smaller, "observations have 9 dimensions, Hopper-v5 has 11"),
        (hopper(20, actions=np.zeros((20, 6), np.float32)), "actions have 6 dimensions, Hopper-v5 has 3"),
    ):
        with pytest.raises(UserError, match=words) as caught:
            load(data, tmp_path)
        assert "\n" not in str(caught.value)
    clipped = load(outside, tmp_path, data_options={"clip_actions": True})
    assert clipped.episodes().inputs["action"].max() == 1.0


def test_leading_columns_can_be_chosen(tmp_path):
    wide = hopper(20, observations=np.ones((20, 14), np.float32), next_observations=np.ones((20, 14), np.float32))
    dataset = load(wide, tmp_path, data_options={"observation_columns": 11})
    assert dataset.sample(3).inputs["next_observation"].shape == (3, 1, 11)


def test_memory_mapped_data_gives_the_same_batches(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    options = {"normalize_observation": True, "normalize_reward": True, "gamma": 0.9}
    usual = load(hopper(200), tmp_path, data_options=options).sample(50)
    mapped = load(hopper(200), tmp_path, data_options=options | {"memmap_above": 1}).sample(50)
    assert (tmp_path / "unirl" / "d4rl").is_dir()
    assert_close(mapped.fields(), usual.fields())


def test_a_scripted_expert_demonstrates_where_there_is_no_data():
    task = {"env": "InvertedPendulum-v5", "expert": "inverted_pendulum", "demonstrations": {"episodes": 2}}
    dataset = load_dataset(task, seed=0, domain=World())
    assert dataset.episode_returns.tolist() == [1000.0, 1000.0]
    noisy = load_dataset(task | {"demonstrations": {"episodes": 2, "noise": 0.1}}, seed=0, domain=World())
    assert float(noisy.episodes().inputs["action"].std()) > float(dataset.episodes().inputs["action"].std())


@pytest.mark.parametrize(
    ("task", "words"),
    [
        ({}, "has no recorded data; give it with task.data=FILE.hdf5"),
        ({"data": "nowhere.hdf5"}, "nowhere.hdf5 does not exist"),
        ({"data": "what is this"}, "is no file, and neither d4rl/NAME"),
        ({"data": "d4rl/hopper-v2"}, "unknown D4RL dataset 'hopper-v2'"),
        ({"expert": "nobody"}, "unknown policy 'nobody'"),
        ({"data": "x.hdf5", "data_options": {"normalise_observation": True}}, "did you mean normalize_observation"),
        ({"data_options": {"gamma": 1.5}}, "gamma is 1.5; a discount lies in"),
        ({"data_options": {"observation_columns": 0}}, "observation_columns is 0; give at least 1"),
        ({"data_options": "abc"}, "task.data_options is 'abc'; it must be names and values, for example"),
        ({"data_options": {"reward_scale": "big"}}, "task.data_options.reward_scale is 'big'; it must be a number$"),
        ({"data_options": {"normalize_observation": "maybe"}}, "is 'maybe'; it must be true or false$"),
        ({"expert": "inverted_pendulum", "demonstrations": {"episodes": "many"}}, "'many'; it must be a whole number$"),
        ({"expert": "inverted_pendulum", "demonstrations": {"episods": 3}}, "did you mean episodes"),
        ({"env": "CartPole-v1", "data": "x.hdf5"}, "recorded data needs continuous vectors"),
    ],
)
def test_what_a_user_can_get_wrong_is_said_in_one_line(task, words):
    with pytest.raises(UserError, match=words) as caught:
        load_dataset({"env": "Hopper-v5"} | task, seed=0, domain=World())
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not REAL.is_dir(), reason="recorded Hopper data is not on this machine (UNIRL_TEST_DATA)")
def test_recorded_hopper_data_has_its_published_score():
    task = {"env": "Hopper-v5", "data": str(REAL / "hopper_medium-v5.hdf5")}
    facts = load_dataset(task, seed=0, domain=SimpleNamespace()).summary()
    assert facts["return_mean"] == pytest.approx(1294.8, abs=0.05)
    assert facts["normalized_score"] == pytest.approx(40.4, abs=0.05)
