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
}


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
