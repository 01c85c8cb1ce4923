import json
import zipfile
from pathlib import Path
from types import SimpleNamespace

import gymnasium as gym
import h5py
import numpy as np
import pytest

from unirl.control.data.collect import collect, gather, make_continuous, policy_function
from unirl.control.data.d4rl import read_d4rl
from unirl.control.data.dataset import load_dataset, read_data
from unirl.control.data.minari_files import read_minari, read_minari_folder
from unirl.control.data.sb3 import SB3Policy
from unirl.control.data.transitions import episode_bounds
from unirl.errors import UserError

KEYS = ("observations", "actions", "rewards", "next_observations", "terminals", "timeouts")
HOPPER = {"env": "Hopper-v5"}
SHORT_REACHER = {"env": "Reacher-v5", "env_kwargs": {"max_episode_steps": 7}}


def same(one, other):
    for key in KEYS:
        np.testing.assert_array_equal(getattr(one, key), getattr(other, key), err_msg=key)


@pytest.fixture(autouse=True)
def minari_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari"


def test_collected_files_read_back_as_what_was_recorded(tmp_path):
    made = collect(HOPPER, tmp_path / "a.hdf5", "random", episodes=5, format="both", seed=3, progress=False)
    wanted = gather(make_continuous(HOPPER), policy_function("random", make_continuous(HOPPER), 3), episodes=5, seed=3)
    same(read_d4rl(made.file), wanted)
    same(read_minari(made.minari_id), wanted)
    assert (made.transitions, made.episodes, made.minari_id) == (len(wanted), 5, "unirl/a-v0")
    assert made.return_mean == pytest.approx(wanted.rewards.sum() / 5, rel=1e-5)
    assert made.normalized_score == pytest.approx(100 * (made.return_mean + 20.272305) / 3254.572305)


def test_minari_data_is_found_by_id_and_by_folder(tmp_path, minari_folder):
    collect(HOPPER, tmp_path / "b.hdf5", episodes=2, format="minari", minari_id="mine/hop-v1", progress=False)
    assert not (tmp_path / "b.hdf5").exists()
    same(read_data("mine/hop-v1"), read_minari_folder(minari_folder / "mine" / "hop-v1"))
    dataset = load_dataset(HOPPER | {"data": "mine/hop-v1"}, seed=0, domain=SimpleNamespace())
    assert dataset.sample(4).inputs["observation"].shape == (4, 1, 11)


def test_the_same_seed_records_the_same_and_another_does_not(tmp_path):
    paths = [tmp_path / f"{name}.hdf5" for name in "abc"]
    for path, seed in zip(paths, (1, 1, 2), strict=True):
        collect(HOPPER, path, steps=40, seed=seed, progress=False)
    one, again, other = map(read_d4rl, paths)
    same(one, again)
    assert not np.array_equal(one.actions, other.actions)


def test_timeouts_and_terminals_are_kept_apart(tmp_path):
    collect(SHORT_REACHER, tmp_path / "r.hdf5", episodes=3, progress=False)
    with h5py.File(tmp_path / "r.hdf5") as file:
        assert not file["terminals"][:].any()
        assert np.flatnonzero(file["timeouts"][:]).tolist() == [6, 13, 20]
    collect(HOPPER, tmp_path / "h.hdf5", episodes=3, progress=False)  # a random hopper falls
    data = read_d4rl(tmp_path / "h.hdf5")
    assert data.terminals.sum() == 3 and not data.timeouts.any()


def test_a_limit_of_steps_cuts_the_last_episode():
    data = gather(make_continuous(SHORT_REACHER), lambda o: np.zeros((1, 2)), steps=10)
    assert np.flatnonzero(data.timeouts).tolist() == [6, 9]
    assert episode_bounds(data.terminals, data.timeouts)[1].tolist() == [7, 3]


def test_recorded_transitions_are_those_of_the_simulation():
    environment = make_continuous(HOPPER)
    data = gather(environment, policy_function("random", environment, 0), steps=20, seed=5)
    observation, _ = environment.reset(seed=5)
    for row in range(5):
        np.testing.assert_array_equal(data.observations[row], observation.astype(np.float32))
        observation, reward, *_ = environment.step(data.actions[row])
        np.testing.assert_array_equal(data.next_observations[row], observation.astype(np.float32))
        assert data.rewards[row] == np.float32(reward)


def test_noise_is_in_units_of_the_half_range_and_what_is_recorded_is_what_was_done():
    environment = gym.make("InvertedPendulum-v5")  # actions in [-3, 3]
    data = gather(environment, lambda o: np.zeros((1, 1)), steps=400, noise=0.1)
    assert data.actions.std() == pytest.approx(0.3, rel=0.15)
    loud = gather(environment, lambda o: np.full((1, 1), 9.0), steps=5, noise=0.1)
    assert np.abs(loud.actions).max() == 3.0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"policy": "nobody", "steps": 5}, "unknown policy 'nobody'; give random, a run folder"),
        ({"steps": 5, "episodes": 5}, "one positive limit"),
        ({"steps": 0}, "one positive limit"),
        ({}, "one positive limit"),
        ({"steps": 5, "format": "parquet"}, "format=parquet is not one of d4rl, minari, both"),
        ({"steps": 5, "out": "a.npz"}, "must end in .hdf5"),
        ({"steps": 5, "format": "minari", "minari_id": "no id"}, "'no id' is not a Minari id"),
        ({"policy": "absent.zip", "steps": 5}, "absent.zip does not exist"),
    ],
)
def test_what_a_user_can_get_wrong_is_said_in_one_line(tmp_path, arguments, words):
    arguments = {"out": "a.hdf5", "progress": False} | arguments
    with pytest.raises(UserError, match=words) as caught:
        collect(HOPPER, tmp_path / arguments.pop("out"), **arguments)
    assert "\n" not in str(caught.value)


def test_a_minari_id_cannot_be_taken_twice(tmp_path):
    collect(HOPPER, tmp_path / "a.hdf5", steps=3, format="minari", progress=False)
    with pytest.raises(UserError, match="cannot create the Minari dataset unirl/a-v0"):
        collect(HOPPER, tmp_path / "a.hdf5", steps=3, format="minari", progress=False)


def test_an_absent_minari_dataset_without_network_is_said_in_one_line(monkeypatch):
    def refuse(*args, **kwargs):
        raise ConnectionError("no route to host\nmore lines")

    monkeypatch.setattr("minari.storage.hosting.download_dataset", refuse)
    with pytest.raises(UserError, match=r"cannot be downloaded \(no route to host\)") as caught:
        read_minari("nobody/nothing-v0")
    assert "\n" not in str(caught.value)
    with pytest.raises(UserError, match="no Minari dataset lies in it"):
        read_minari_folder(Path(__file__).parent)


def saved(tmp_path, algorithm, env="InvertedPendulum-v5"):
    stable_baselines3 = pytest.importorskip("stable_baselines3")
    options = {"policy_kwargs": {"net_arch": [8]}, "device": "cpu", "seed": 0}
    getattr(stable_baselines3, algorithm)("MlpPolicy", env, **options).save(tmp_path / f"{algorithm}.zip")
    return tmp_path / f"{algorithm}.zip"


@pytest.mark.parametrize("algorithm", ["PPO", "A2C", "SAC", "TD3", "DDPG"])
def test_a_stable_baselines_policy_is_recognised_and_acts_on_batches(tmp_path, algorithm):
    policy = SB3Policy(saved(tmp_path, algorithm))
    observation = np.random.default_rng(0).standard_normal((5, 4)).astype(np.float32)
    actions = policy.act(observation, deterministic=True)
    assert policy.algorithm == ("TD3" if algorithm == "DDPG" else algorithm)  # DDPG's policy is TD3's
    assert actions.shape == (5, 1) and (np.abs(actions) <= 3.0).all()
    np.testing.assert_allclose(actions[2:3], policy.act(observation[2:3], deterministic=True), rtol=1e-5)


@pytest.mark.parametrize("algorithm", ["PPO", "A2C", "SAC"])
def test_densities_of_stable_baselines_policies_integrate_to_one(tmp_path, algorithm):
    policy = SB3Policy(saved(tmp_path, algorithm))
    end = 3.0 if algorithm == "SAC" else 9.0  # SAC's density ends with the action range
    grid = np.linspace(-end, end, 4001, dtype=np.float32)
    density = np.exp(policy.log_prob(np.zeros((len(grid), 4), np.float32), grid[:, None]))
    assert np.trapezoid(density, grid) == pytest.approx(1.0, abs=0.01)


def test_a_deterministic_policy_has_no_log_probability(tmp_path):
    with pytest.raises(UserError, match="TD3 policies are deterministic"):
        SB3Policy(saved(tmp_path, "TD3")).log_prob(np.zeros((1, 4), np.float32), np.zeros((1, 1), np.float32))


def test_a_stable_baselines_policy_collects(tmp_path):
    path = saved(tmp_path, "PPO")
    made = collect({"env": "InvertedPendulum-v5"}, tmp_path / "p.hdf5", str(path), steps=30, progress=False)
    assert made.transitions == 30


def test_what_is_no_stable_baselines_file_is_refused_before_anything_is_unpickled(tmp_path):
    text = tmp_path / "text.zip"
    text.write_text("no archive")
    with pytest.raises(UserError, match="not a Stable-Baselines3 file"):
        SB3Policy(text)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("data", json.dumps({"policy_class": {"__module__": "stable_baselines3.dqn.policies"}}))
    with pytest.raises(UserError, match="cannot tell which algorithm"):
        SB3Policy(tmp_path / "other.zip")
    with pytest.raises(UserError, match="algorithm 'DQN' is not one of"):
        SB3Policy(tmp_path / "other.zip", algorithm="dqn")


def test_without_stable_baselines_the_error_says_what_to_install(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "m.zip", "w") as archive:
        archive.writestr("data", json.dumps({"policy_class": {"__module__": "stable_baselines3.sac.policies"}}))
    monkeypatch.setitem(__import__("sys").modules, "stable_baselines3", None)
    with pytest.raises(UserError, match="pip install stable-baselines3"):
        SB3Policy(tmp_path / "m.zip")
