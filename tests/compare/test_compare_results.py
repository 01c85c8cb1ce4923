import json
import math
from dataclasses import asdict
from pathlib import Path

import pytest
from compare_fakes import write_run

from unirl.compare.normalised import normalised_score, scale_text
from unirl.compare.results import (
    Curve,
    Failure,
    Results,
    distinguish,
    find_runs,
    read_curve,
    read_results,
    read_run,
)
from unirl.errors import UserError


def test_read_run_takes_the_evaluations_of_the_metrics_file(tmp_path):
    run = read_run(write_run(tmp_path, normalised=(0.0, 1.0, 3.0)))
    scale = "0 is a random policy, 100 an expert (D4RL)"
    assert run.curve == Curve((0.0, 100.0, 200.0), (0.0, 0.5, 1.0), (10.0, 20.0, 40.0), (0.0, 1.0, 3.0), scale)
    assert (run.start, run.end, run.normalised_end, run.seconds, run.samples, run.finished) == (
        10.0, 40.0, 3.0, 1.0, 200.0, True,
    )  # fmt: skip


def test_an_unfinished_run_ends_at_its_last_evaluation(tmp_path):
    run = read_run(write_run(tmp_path, finished=False))
    assert (run.end, run.samples, run.finished) == (40.0, 200.0, False)


def test_read_curve_leaves_out_a_half_written_last_line_and_missing_scores(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"samples": 1, "seconds": 1, "eval/score": 5, "eval/accuracy": 0.25}\n'
        '{"samples": 2, "seconds": 2, "eval/score": null}\n'
        '{"samples": 3, "seconds": 3, "eval/score": NaN}\n'
        '{"samples": 4, "sec'
    )
    assert read_curve(path, {}) == Curve((1.0,), (1.0,), (5.0,), (25.0,), "the share of right answers in percent")


@pytest.mark.parametrize(
    ("row", "task", "expected", "scale"),
    [
        (
            {"eval/normalized_score": 33.0},
            {"reference_score": None},
            33.0,
            "0 is a random policy, 100 an expert (D4RL)",
        ),
        ({}, {"reference_score": {"random": 10.0, "expert": 30.0}}, 75.0, "0 is a score of 10, 100 a score of 30"),
        ({"eval/accuracy": 0.5}, {}, 50.0, "the share of right answers in percent"),
        ({"eval/win_rate": 0.75}, {}, 75.0, "the share of comparisons won in percent"),
    ],
)
def test_scores_are_normalised_by_the_domain_the_task_or_an_accuracy(row, task, expected, scale):
    # a score of 25 between 10 and 30 is at 75 %
    assert normalised_score(row, 25.0, task) == expected
    assert scale_text(row, task) == scale


def test_a_task_without_a_scale_is_not_normalised():
    assert math.isnan(normalised_score({"eval/score": 25.0}, 25.0, {}))
    assert scale_text({"eval/score": 25.0}, {}) == ""


def test_a_broken_line_in_the_middle_is_an_error_that_names_the_folder(tmp_path):
    folder = write_run(tmp_path)
    metrics = folder / "metrics.jsonl"
    metrics.write_text("{broken\n" + metrics.read_text())
    with pytest.raises(UserError, match="seed_0 is not a readable run folder"):
        read_run(folder)


@pytest.mark.parametrize("text", ["", "method: {name: [", "method: {name: ppo}"])
def test_a_broken_configuration_is_an_error_in_one_line(tmp_path, text):
    folder = write_run(tmp_path)
    (folder / "config.yaml").write_text(text)
    with pytest.raises(UserError, match="seed_0 is not a readable run folder") as caught:
        read_run(folder)
    assert "\n" not in str(caught.value)


def test_find_runs_looks_below_and_names_folders_without_runs(tmp_path):
    folders = [write_run(tmp_path, seed=seed) for seed in (0, 1)]
    assert find_runs([tmp_path, folders[0]]) == folders
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no run folder"):
        find_runs([tmp_path / "empty"])
    with pytest.raises(UserError, match="is not a folder"):
        find_runs([tmp_path / "nowhere"])


def test_failed_cells_are_found_whether_or_not_they_began_to_train(tmp_path):
    begun = write_run(tmp_path, seed=1, finished=False)
    never = tmp_path / "ppo" / "hopper" / "seed_2"
    never.mkdir()
    write_run(tmp_path, seed=0)
    for seed, folder in ((1, begun), (2, never)):
        failure = Failure("ppo", "control", "hopper", seed, "boom\n(exit code 1)", f"{folder}/log.txt")
        (folder / "failure.json").write_text(json.dumps(asdict(failure)))
    found = read_results([tmp_path], "unirl report x")
    assert [run.seed for run in found.runs] == [0]
    assert [(failure.seed, failure.reason) for failure in found.failures] == [(1, "boom"), (2, "boom")]
    assert found.command == "unirl report x"


def test_the_same_seed_twice_is_refused_and_two_settings_of_it_are_not(tmp_path):
    write_run(tmp_path / "a")
    write_run(tmp_path / "b")
    with pytest.raises(UserError, match="both seed 0 of ppo on hopper"):
        read_results([tmp_path])
    write_run(tmp_path / "c", config={"samples": 5})
    assert len(read_results([tmp_path / "a", tmp_path / "c"]).runs) == 2


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        ("Traceback\n  here\nRuntimeError: nan\n(exit code 1)", "RuntimeError: nan"),
        ("unirl: task=x has no data\n\n(exit code 2)", "task=x has no data"),
        ("(killed by SIGKILL)", "(killed by SIGKILL)"),
    ],
)
def test_the_reason_of_a_failure_is_its_last_line_or_how_it_ended(log, reason):
    assert Failure("ppo", "control", "hopper", 0, log).reason == reason


def test_results_are_listed_as_planned_whatever_failed(tmp_path):
    run = read_run(write_run(tmp_path, "grpo"))
    failure = Failure("ppo", "llm", "addition", 0, "boom")
    order = (("ppo", "llm", "addition"), ("sac", "llm", "addition"), ("grpo", "control", "hopper"))
    planned = Results((run,), (failure,), order=order)
    assert planned.methods == ["ppo", "grpo"]  # sac was not tried
    assert planned.tasks == [("llm", "addition"), ("control", "hopper")]


def test_runs_are_listed_by_seed(tmp_path):
    runs = tuple(read_run(write_run(tmp_path, seed=seed)) for seed in (10, 2))
    assert [run.seed for run in Results(runs).of("ppo", "hopper")] == [2, 10]


def test_runs_with_other_settings_are_told_apart_and_are_no_seeds_of_each_other(tmp_path):
    fast = {"method": {"name": "ppo", "update": {"lr": 0.1}}}
    slow = {"method": {"name": "ppo", "update": {"lr": 0.01}}}
    runs = [read_run(write_run(tmp_path / str(i), config=config)) for i, config in enumerate((fast, slow))]
    assert [run.method for run in distinguish(runs)] == ["ppo (update.lr=0.1)", "ppo (update.lr=0.01)"]


def test_seeds_of_one_configuration_keep_their_name(tmp_path):
    runs = [read_run(write_run(tmp_path, seed=seed)) for seed in (0, 1)]
    assert [run.method for run in distinguish(runs)] == ["ppo", "ppo"]


def test_a_folder_without_a_run_is_a_user_error():
    with pytest.raises(UserError, match=r"has no config\.yaml"):
        read_run(Path("/nonexistent"))
