import json

import numpy as np
import pytest
import torch

from unirl.errors import UserError
from unirl.trainer.checkpoint import read_checkpoint, write_checkpoint
from unirl.trainer.statefile import TENSORS, TREE, load_state, save_state


def test_a_nested_state_comes_back_equal(tmp_path):
    state = {
        "weights": {"a": torch.tensor([1.5, -2.0]), "b": torch.arange(3)},
        "array": np.array([1.0, 2.0]),
        "rng": {"state": 2**100 + 1, "inc": 3},
        "list": [1, "two", None, True, 0.1, {"inner": torch.zeros(1, 0)}],
        "tuple": (1, 2.5),
        "by_number": {0: {"step": torch.tensor(3.0)}},
        "scalar": np.float64(0.25),
    }
    save_state(state, tmp_path)
    loaded = load_state(tmp_path)
    assert torch.equal(loaded["weights"]["a"], state["weights"]["a"])
    assert np.array_equal(loaded["array"], state["array"])
    assert loaded["rng"] == state["rng"]
    assert loaded["list"][:5] == state["list"][:5]
    assert loaded["tuple"] == (1, 2.5)
    assert torch.equal(loaded["by_number"][0]["step"], torch.tensor(3.0))
    assert loaded["scalar"] == 0.25


def test_an_optimizers_state_survives(tmp_path):
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight])
    weight.sum().backward()
    optimizer.step()
    save_state(optimizer.state_dict(), tmp_path)
    other = torch.optim.Adam([torch.nn.Parameter(torch.ones(3))])
    other.load_state_dict(load_state(tmp_path))
    assert torch.equal(other.state_dict()["state"][0]["exp_avg"], optimizer.state_dict()["state"][0]["exp_avg"])


def test_views_of_one_memory_come_back_apart(tmp_path):
    whole = torch.arange(6.0)
    save_state({"all": whole, "again": whole, "half": whole[:3], "rows": list(whole.view(2, 3))}, tmp_path)
    loaded = load_state(tmp_path)
    assert loaded["all"].tolist() == loaded["again"].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    assert loaded["half"].tolist() == [0.0, 1.0, 2.0]
    assert [row.tolist() for row in loaded["rows"]] == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]


def test_an_object_that_would_need_pickling_is_refused(tmp_path):
    with pytest.raises(TypeError, match="/policy"):
        save_state({"policy": object()}, tmp_path)


@pytest.mark.parametrize("broken", [TENSORS, TREE])
def test_a_truncated_file_is_one_clear_error(tmp_path, broken):
    save_state({"a": torch.ones(10)}, tmp_path)
    content = (tmp_path / broken).read_bytes()
    (tmp_path / broken).write_bytes(content[: len(content) // 2])
    with pytest.raises(UserError, match="broken"):
        load_state(tmp_path)


def test_a_half_written_checkpoint_is_not_read(tmp_path):
    write_checkpoint(tmp_path, 1, {"iteration": 1})
    unfinished = tmp_path / "checkpoints" / ".writing_000000002"
    unfinished.mkdir()
    (unfinished / TREE).write_text(json.dumps({"iteration": 2}))
    assert read_checkpoint(tmp_path)["iteration"] == 1


def test_old_checkpoints_are_removed(tmp_path):
    for iteration in range(5):
        write_checkpoint(tmp_path, iteration, {"iteration": iteration}, keep=2)
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step_000000003", "step_000000004"]
