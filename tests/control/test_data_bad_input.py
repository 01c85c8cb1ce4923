"""What can be wrong with a recording: the command line says it in one line and ends with exit code 2."""

import re

import h5py
import numpy as np
import pytest

from unirl import cli

ROWS = 40
TRAIN = ["train", "method=td3_bc", "task=hopper", "iterations=1", "evaluation_episodes=1", "--quiet"]


def whole() -> dict[str, np.ndarray]:
    """A recording of Hopper's shapes with nothing wrong."""
    draw = np.random.default_rng(0)
    ends = np.arange(ROWS) % 10 == 9
    return {
        "observations": draw.normal(size=(ROWS, 11)).astype(np.float32),
        "next_observations": draw.normal(size=(ROWS, 11)).astype(np.float32),
        "actions": draw.uniform(-1, 1, (ROWS, 3)).astype(np.float32),
        "rewards": np.ones(ROWS, np.float32),
        "terminals": ends,
        "timeouts": np.zeros(ROWS, bool),
    }


def with_entry(key, row, value):
    """The recording with one number (in the last column, if there are several) changed."""
    data = whole()
    data[key] = data[key].astype(np.float32)
    data[key][(row, -1) if data[key].ndim == 2 else row] = value
    return data


def without(*keys):
    return {key: values for key, values in whole().items() if key not in keys}


def changed(**arrays):
    return whole() | arrays


CASES = {  # what is wrong -> (the file's arrays, what the line must say)
    "an action beyond the range": (
        with_entry("actions", 13, 1.37),
        r"row 13: action 1.37 is outside Hopper-v5's range \[-1, 1\]; .*clip_actions=true clips",
    ),
    "observations that are no numbers": (with_entry("observations", 7, np.nan), "row 7: observation is not a finite"),
    "actions that are no numbers": (with_entry("actions", 8, np.nan), "row 8: action is not a finite number"),
    "infinite rewards": (with_entry("rewards", 9, np.inf), "row 9: reward is not a finite number"),
    "next observations that are no numbers": (with_entry("next_observations", 3, np.nan), "row 3: next_observation is"),
    "terminals that are no numbers": (with_entry("terminals", 5, np.nan), "row 5: terminal is not a finite number"),
    "no terminals": (without("terminals"), "key 'terminals' is missing, D4RL's layout has it; the file holds actions,"),
    "no rewards": (without("rewards"), "records no rewards, which this method learns from"),
    "neither cuts nor next observations": (without("timeouts", "next_observations"), "key 'timeouts' is missing"),
    "observations of another world": (
        changed(observations=np.ones((ROWS, 17)), next_observations=np.ones((ROWS, 17))),
        "observations have 17 dimensions, Hopper-v5 has 11; is it of another environment",
    ),
    "actions of another world": (changed(actions=np.ones((ROWS, 6))), "actions have 6 dimensions, Hopper-v5 has 3"),
    "actions without dimensions": (changed(actions=np.ones(ROWS)), r"actions has shape \(40,\); \[rows, dimensions\]"),
    "fewer actions than observations": (changed(actions=np.ones((39, 3))), "actions has 39 rows, observations has 40"),
    "two rewards for each row": (
        changed(rewards=np.ones((ROWS, 2))),
        r"rewards has shape \(40, 2\); one number for each",
    ),
    "no rows": ({key: values[:0] for key, values in whole().items()}, "holds no transitions"),
    "text in place of actions": (changed(actions=np.full((ROWS, 3), b"left")), "actions are not numbers"),
    "text in place of terminals": (changed(terminals=np.full(ROWS, b"no")), "terminals are not numbers"),
    "terminals that are neither yes nor no": (
        with_entry("terminals", 3, 0.5),
        "row 3: terminal is 0.5; 0 or 1 is needed",
    ),
    "timeouts that are neither yes nor no": (with_entry("timeouts", 4, 2.5), "row 4: timeout is 2.5; 0 or 1 is needed"),
    "one reward for all rows": (changed(rewards=np.float64(1.0)), "rewards is no array; one entry for each row"),
    "one observation": (changed(observations=np.float64(1.0)), "observations is no array; one entry for each row"),
    "nothing in place of timeouts": (changed(timeouts=h5py.Empty("f")), "timeouts is no array; one entry for each row"),
    "rewards too large for single precision": (
        changed(rewards=np.where(np.arange(ROWS) == 6, 1e300, 1.0)),
        "row 6: reward is not a finite number",
    ),
}


@pytest.mark.filterwarnings("error:overflow")
@pytest.mark.parametrize("case", CASES)
def test_a_wrong_recording_is_one_clear_line(case, tmp_path, capsys):
    arrays, words = CASES[case]
    with h5py.File(tmp_path / "recorded.hdf5", "w") as file:
        for key, values in arrays.items():
            file[key] = values
    assert cli.main([*TRAIN, f"task.data={tmp_path / 'recorded.hdf5'}", f"out={tmp_path / 'run'}"]) == 2
    shown = capsys.readouterr().err.strip().splitlines()
    assert len(shown) == 1, shown
    assert re.search(words, shown[0]), shown[0]
    assert "recorded.hdf5" in shown[0]


def test_the_recording_with_nothing_wrong_trains(tmp_path):
    with h5py.File(tmp_path / "recorded.hdf5", "w") as file:
        for key, values in whole().items():
            file[key] = values
    assert cli.main([*TRAIN, f"task.data={tmp_path / 'recorded.hdf5'}", f"out={tmp_path / 'run'}"]) == 0


def test_behavior_cloning_takes_a_recording_without_rewards(tmp_path):
    with h5py.File(tmp_path / "recorded.hdf5", "w") as file:
        for key, values in without("rewards").items():
            file[key] = values
    train = ["train", "method=bc", *TRAIN[2:], f"task.data={tmp_path / 'recorded.hdf5'}"]
    assert cli.main([*train, f"out={tmp_path / 'run'}"]) == 0
    assert cli.main([*train, "method.policy=decision_transformer", f"out={tmp_path / 'looks_back'}"]) == 0


@pytest.mark.parametrize(
    "word",
    [
        "method.source.data.rewards=true",
        "method.source.data.gamma=0.9",
        "method.policy={name: bounded_gaussian, condition: return_per_step}",
    ],
)
def test_behavior_cloning_that_reads_returns_needs_rewards(word, tmp_path, capsys):
    with h5py.File(tmp_path / "recorded.hdf5", "w") as file:
        for key, values in without("rewards").items():
            file[key] = values
    train = ["train", "method=bc", *TRAIN[2:], f"task.data={tmp_path / 'recorded.hdf5'}", word]
    assert cli.main([*train, f"out={tmp_path / 'run'}"]) == 2
    assert "recorded.hdf5 records no rewards, which this method learns from" in capsys.readouterr().err
    with h5py.File(tmp_path / "recorded.hdf5", "a") as file:
        file["rewards"] = whole()["rewards"]
    assert cli.main([*train, f"out={tmp_path / 'run'}"]) == 0


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("method.source.data.gama=0.9", "unknown key of method.source.data 'gama' (did you mean gamma"),
        ("method.source.data.reward_scale=big", "method.source.data.reward_scale is 'big'; it must be a number"),
        ("task.data_options={expert: true}", "unknown key of task.data_options 'expert'"),
    ],
)
def test_a_wrong_way_to_present_data_is_named_where_it_was_given(word, message, tmp_path, capsys):
    with h5py.File(tmp_path / "recorded.hdf5", "w") as file:
        for key, values in whole().items():
            file[key] = values
    words = [*TRAIN, f"task.data={tmp_path / 'recorded.hdf5'}", f"out={tmp_path / 'run'}", word]
    assert cli.main(words) == 2
    assert message in capsys.readouterr().err
