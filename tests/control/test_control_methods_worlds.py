"""H2O and OGSRL as whole runs: a few dozen updates, resuming, what a user can get wrong."""

import json
from pathlib import Path

import pytest
import torch
from torch import tensor

from unirl import Batch, cli

H2O = ["train", "method=h2o", "task=inverted_pendulum", "task.demonstrations.episodes=1", "model.hidden=[16]"]
SIMULATOR = "task.simulator={perturb:{gravity:2}}"
QUICK = ["evaluation_episodes=1", "evaluations=1", "logs=4", "--quiet"]
RUNS = {
    "h2o": [*H2O, SIMULATOR, "iterations=40", "method.source.warmup=40", "method.source.batch=32"],
    "ogsrl": ["train", "method=ogsrl", "task=dosing", "iterations=3", "method.source.rows=2", "model.hidden=[16]",
              "method.update.epochs=2", "method.update.actor_every=2"],
}  # fmt: skip


def metrics(folder: Path):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "seconds"} for line in lines]


@pytest.mark.parametrize("method", RUNS)
def test_a_short_run_resumes_to_the_same_numbers(method, tmp_path):
    for name in ("whole", "resumed"):
        assert cli.main([*RUNS[method], "checkpoints=3", *QUICK, f"out={tmp_path / name}"]) == 0
    *_, last = sorted((tmp_path / "resumed" / "checkpoints").iterdir())
    last.rename(tmp_path / "last")
    assert cli.main(["resume", str(tmp_path / "resumed"), "--quiet"]) == 0
    whole, resumed = metrics(tmp_path / "whole"), metrics(tmp_path / "resumed")
    assert resumed == whole and whole[-1]["step"] > 0
    losses = {key for line in whole for key in line if key.startswith("loss/")}
    own = {"h2o": {"loss/dynamics_classifier", "loss/q"}, "ogsrl": {"loss/policy/cost", "loss/policy/kl", "loss/value"}}
    assert own[method] <= losses


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "H2O learns from recorded data and a simulator beside it: give 'task.simulator="),
        (
            ["task.simulator={perturb:{mass:{poel:2}}}"],
            "the model has no body 'poel' (did you mean pole?); its bodies:",
        ),
        (["task.simulator={gravity:2}"], "unknown key of task.simulator 'gravity'"),
    ],
)
def test_what_is_wrong_with_a_simulator_is_one_line_and_exit_code_2(words, message, tmp_path, capsys):
    assert cli.main([*H2O, *words, *QUICK, f"out={tmp_path / 'run'}"]) == 2
    found = capsys.readouterr()
    assert message in found.err and found.err.count("\n") == 1 and found.out == ""


def test_a_method_that_limits_costs_says_so_where_there_are_none(tmp_path, capsys):
    words = [word for word in RUNS["ogsrl"] if word != "task=dosing"]
    assert cli.main([*words, "task=inverted_pendulum", *QUICK, f"out={tmp_path / 'run'}"]) == 2
    found = capsys.readouterr().err
    assert "this world reports no costs" in found and found.count("\n") == 1


def test_joined_batches_keep_what_all_of_them_have():
    # roll-outs of squashed policies hold raw actions, recorded data does not
    mask = torch.ones(1, 1, dtype=torch.bool)
    rolled = Batch(mask=mask, inputs={"action": tensor([[1.0]]), "raw_action": tensor([[2.0]])})
    recorded = Batch(mask=mask, inputs={"action": tensor([[3.0]])})
    assert set(Batch.cat([rolled, recorded]).inputs) == {"action"}
    assert Batch.cat([recorded, rolled]).inputs["action"].tolist() == [[3.0], [1.0]]
