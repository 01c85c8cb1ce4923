"""Imitation's data: an expert's recording beside a mixture, with or without rewards."""

import h5py
import numpy as np
import pytest
import torch
from control_worlds import SMALL
from torch.testing import assert_close

from unirl.config import compose
from unirl.control import ControlDomain
from unirl.control.data.d4rl import read_d4rl, write_d4rl
from unirl.control.data.transitions import Transitions
from unirl.errors import UserError
from unirl.registry import make
from unirl.run import train


def hopper(count, shift, seed=0):
    """Random rows whose observations lie around `shift`."""
    rng = np.random.default_rng(seed)
    return Transitions(
        observations=(shift + rng.standard_normal((count, 11))).astype(np.float32),
        actions=rng.uniform(-1, 1, (count, 3)).astype(np.float32),
        rewards=np.arange(count, dtype=np.float32),
        next_observations=(shift + rng.standard_normal((count, 11))).astype(np.float32),
        terminals=np.arange(count) % 5 == 4,
        timeouts=np.zeros(count, dtype=bool),
    )


def without_rewards(path):
    with h5py.File(path, "a") as file:
        del file["rewards"]
    return path


@pytest.fixture
def files(tmp_path):
    return {
        "data": str(write_d4rl(hopper(200, 0.0), tmp_path / "mixture.hdf5")),
        "expert_data": str(without_rewards(write_d4rl(hopper(50, 5.0), tmp_path / "expert.hdf5"))),
    }


def source_of(files, **options):
    domain = ControlDomain({"env": "Hopper-v5", **files}, SMALL)
    source = make("source", "expert_mix", **options)
    source.start(domain, 0)
    return domain, source


def test_every_batch_holds_both_kinds_told_apart_by_their_source(files):
    _, source = source_of(files, batch=40, fraction=0.25, data={"rewards": False})
    batch = source.next()
    assert batch.source.tolist() == [3] * 30 + [2] * 10
    assert "reward" not in batch
    level = batch.inputs["observation"].mean((1, 2))
    assert (level[:30] < 2.5).all() and (level[30:] > 2.5).all()
    assert source.samples == 40


def test_both_are_seen_through_the_mixtures_statistics(files):
    domain, source = source_of(files, batch=64, data={"rewards": False, "normalize_observation": True})
    data = read_d4rl(files["data"]).observations
    assert_close(domain.observation_normalizer.moments.mean, data.mean(0).astype(np.float64), atol=1e-5, rtol=0)
    seen = source.next().inputs["observation"]
    expected = (torch.from_numpy(read_d4rl(files["expert_data"], rewards=False).observations) - data.mean(0)) / (
        data.std(0) + 1e-3
    )
    distance = (seen[32:] - expected).abs().amax(-1).amin(-1)  # every expert row is one of the file, so normalised
    assert_close(distance, torch.zeros(32), atol=1e-4, rtol=0)


def test_draws_continue_after_a_restore(files):
    _, first = source_of(files, data={"rewards": False})
    _, second = source_of(files, data={"rewards": False})
    first.next()
    state = first.state_dict()
    expected = first.next().inputs["observation"]
    second.load_state_dict(state)
    assert torch.equal(second.next().inputs["observation"], expected)


def test_without_a_recording_the_tasks_scripted_expert_demonstrates():
    task = {"env": "InvertedPendulum-v5", "expert": "inverted_pendulum", "demonstrations": {"episodes": 1}}
    source = make("source", "expert_mix", batch=8, data={"rewards": False})
    source.start(ControlDomain(task, SMALL), 0)
    assert len(source.next()) == 8


def test_rewards_are_read_where_a_method_asks_for_them(files, tmp_path):
    files["expert_data"] = str(write_d4rl(hopper(50, 5.0), tmp_path / "paid.hdf5"))
    _, source = source_of(files, batch=8)
    assert source.next().reward.shape == (8, 1)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["method=iql", "task.data={expert_data}"], "expert.hdf5 records no rewards, which this method learns from"),
        (["method=recoil", "method.source.data.rewards=true"], "expert.hdf5 records no rewards"),
        (
            ["method=recoil", "task.expert_data=null"],
            "has no expert to imitate; give a recording with task.expert_data",
        ),
        (["method=recoil", "method.source.fraction=1.0"], "source.fraction is 1.0"),
        (["method=recoil", "method.source.fraction=0.001"], "source.batch is 0"),
    ],
)
def test_what_a_user_gets_wrong_is_one_line(words, message, files, tmp_path):
    common = ["task=hopper", f"task.data={files['data']}", f"task.expert_data={files['expert_data']}"]
    given = [word.format(**files) for word in words]
    with pytest.raises(UserError, match=message) as caught:
        train(compose([*common, *given, "iterations=1", f"out={tmp_path / 'run'}"]))
    assert "\n" not in str(caught.value)
