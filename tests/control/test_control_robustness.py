"""`unirl eval RUN perturb=...`, and runs in perturbed worlds."""

import json

import pytest

from unirl import cli
from unirl.run import evaluate

PENDULUM = ["train", "method=ppo", "task=inverted_pendulum", "method.source.rows=64", "method.update.minibatches=1"]
SHORT = ["evaluation_episodes=2", "evaluations=1", "checkpoints=1", "logs=1", "--quiet"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("robustness") / "run"
    assert cli.main([*PENDULUM, "iterations=1", *SHORT, f"out={folder}"]) == 0
    return folder


def test_eval_writes_a_table_a_plot_and_json(run, capsys):
    assert cli.main(["eval", str(run), "perturb={gravity:[0.5,2],mass:{pole:1.5}}", "--episodes", "3"]) == 0
    printed = capsys.readouterr().out
    assert "gravity" in printed.splitlines()[0] and "0.7071" in printed and "robustness/gravity.png" in printed
    report = json.loads((run / "robustness" / "gravity.json").read_text())
    assert report["fixed"] == {"mass.pole": 1.5} and report["episodes"] == 3 and len(report["results"]) == 5
    assert {"score", "score_std", "length", "perturb"} <= set(report["results"][0])
    assert (run / "robustness" / "gravity.png").stat().st_size > 1000


def test_no_change_scores_what_a_plain_evaluation_does(run, capsys):
    assert cli.main(["eval", str(run), "perturb.gravity=[0.5,2]", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    unchanged = next(entry for entry in report["results"] if entry["perturb"] == {"gravity": 1.0})
    assert unchanged["score"] == evaluate(run)["score"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["perturb={gravty:[0.5,2]}"], "unknown quantity of perturb 'gravty' (did you mean gravity"),
        (["perturb={mass:{pol:[0.5,2]}}"], "the model has no body 'pol' (did you mean pole?); its bodies: cart, pole"),
        (["perturb={gravity:2}"], "perturb varies nothing"),
        (["perturb=2"], "perturb=2: give names and numbers"),
        (["gravity=[0.5,2]"], "unknown argument of unirl eval 'gravity'"),
        (["perturb={gravity:[0.5,2]}", "--video", "a.mp4"], "--video films the run's own world"),
    ],
)
def test_what_cannot_be_perturbed_is_one_line_and_exit_code_2(run, words, message, capsys):
    assert cli.main(["eval", str(run), *words]) == 2
    found = capsys.readouterr()
    assert message in found.err and found.err.count("\n") == 1 and found.out == ""


def test_training_in_a_world_that_the_model_does_not_know_is_one_line(capsys, tmp_path):
    assert cli.main([*PENDULUM, "task.perturb={mass:{torso:2}}", f"out={tmp_path / 'run'}"]) == 2
    assert "no body 'torso'; its bodies: cart, pole" in capsys.readouterr().err


def test_an_interrupted_run_in_a_perturbed_world_ends_with_the_same_numbers(tmp_path):
    noisy = "task.perturb={gravity:2,actuator_noise:0.3,mass:{pole:1.5}}"
    for name in ("whole", "resumed"):
        words = ["iterations=3", "checkpoints=3", *SHORT[:2], "logs=3", "--quiet", f"out={tmp_path / name}"]
        assert cli.main([*PENDULUM, noisy, *words]) == 0
    folder = tmp_path / "resumed"
    *_, last = sorted((folder / "checkpoints").iterdir())
    for file in sorted(last.rglob("*"), reverse=True):
        file.unlink() if file.is_file() else file.rmdir()
    last.rmdir()
    assert cli.main(["resume", str(folder), "--quiet"]) == 0
    whole, resumed = (
        [
            {key: value for key, value in json.loads(line).items() if "second" not in key}
            for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()
        ]
        for name in ("whole", "resumed")
    )
    assert resumed[-1] == whole[-1]
