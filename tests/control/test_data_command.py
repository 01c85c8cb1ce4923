import h5py
import pytest

from unirl.control.data.command import command
from unirl.errors import UserError


def test_collect_records_a_scripted_expert(tmp_path, capsys):
    out = tmp_path / "expert.hdf5"
    assert command(["task=inverted_pendulum", f"out={out}", "policy=inverted_pendulum", "steps=300"]) == 0
    assert "300 transitions, 1 episodes, mean return 300.0" in capsys.readouterr().out
    with h5py.File(out) as file:
        assert file["actions"].shape == (300, 1)
        assert file["timeouts"][-1]
        assert not file["terminals"][:].any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["out=a.hdf5"], "needs a task"),
        (["task=hopper"], "needs a file"),
        (["task=hopper", "out=a.hdf5", "polcy=random"], r"unknown key of collect 'polcy' \(did you mean policy"),
        (["task=hopper", "out=a.hdf5", "steps=many"], "steps=many is not a whole number"),
        (["task=hopper", "out=a.hdf5", "policy=nobody"], "unknown policy 'nobody'"),
        (["task=hoper", "out=a.hdf5"], "unknown task 'hoper'"),
        (
            ["task=hopper", "out=a.hdf5", "policy=reacher"],
            "expert 'reacher' has 10 observations and 2 actions; Hopper-v5 has 11 observations and 3 actions$",
        ),
        (["task=hopper", "out=a.hdf5", "policy=point_maze"], "demonstrates in unirl/PointMaze-v0 only"),
    ],
)
def test_wrong_arguments_are_one_clear_line(arguments, message):
    with pytest.raises(UserError, match=message):
        command(arguments)
