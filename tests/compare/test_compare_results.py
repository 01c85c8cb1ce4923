import math
from pathlib import Path

import pytest
from compare_fakes import write_run

from unirl.compare.results import (
    Curve,
    Failure,
    Results,
    Spread,
    distinguish,
    find_runs,
    read_curve,
    read_run,
    summarise,
)
from unirl.errors import UserError


def test_read_run_takes_the_evaluations_of_the_metrics_file(tmp_path):
    run = read_run(write_run(tmp_path))
    assert run.curve == Curve((0.0, 100.0, 200.0), (0.0, 0.5, 1.0), (10.0, 20.0, 40.0))
    assert (run.start, run.end, run.seconds, run.finished) == (10.0, 40.0, 1.0, True)


def test_an_unfinished_run_ends_at_its_last_evaluation(tmp_path):
    run = read_run(write_run(tmp_path, finished=False))
    assert (run.end, run.finished) == (40.0, False)


def test_read_curve_leaves_out_a_half_written_last_line_and_missing_scores(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text(
        '{"samples": 1, "seconds": 1, "eval/score": 5}\n'
        '{"samples": 2, "seconds": 2, "eval/score": null}\n'
        '{"samples": 3, "seconds": 3, "eval/score": NaN}\n'
        '{"samples": 4, "sec'
    )
    assert read_curve(path) == Curve((1.0,), (1.0,), (5.0,))


def test_a_broken_line_in_the_middle_is_an_error_that_names_the_folder(tmp_path):
    folder = write_run(tmp_path)
    metrics = folder / "metrics.jsonl"
    metrics.write_text("{broken\n" + metrics.read_text())
    with pytest.raises(UserError, match="seed_0 is not a readable run folder"):
        read_run(folder)


def test_find_runs_looks_below_and_names_folders_without_runs(tmp_path):
    folders = [write_run(tmp_path, seed=seed) for seed in (0, 1)]
    assert find_runs([tmp_path, folders[0]]) == folders
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no run folder"):
        find_runs([tmp_path / "empty"])


def test_spread_is_the_mean_and_the_extremes_of_the_finite_values():
    assert Spread.of([1.0, 2.0, 6.0, math.nan]) == Spread(3.0, 1.0, 6.0)
    assert math.isnan(Spread.of([]).mean)


def test_summary_counts_seeds_and_failures(tmp_path):
    # ends 40 and 60, starts 10 and 20: changes 30 and 40, mean 35
    runs = [
        read_run(write_run(tmp_path, seed=0)),
        read_run(write_run(tmp_path, seed=1, scores=(20.0, 20.0, 60.0))),
        read_run(write_run(tmp_path, seed=2, finished=False)),
    ]
    failure = Failure("ppo", "control", "hopper", 3, "boom")
    (row,) = summarise(Results(tuple(runs), (failure,)))
    assert (row.seeds, row.failed) == ((0, 1), 2)
    assert (row.start.mean, row.end, row.change.mean) == (15.0, Spread(50.0, 40.0, 60.0), 35.0)


def test_results_are_listed_as_planned_whatever_failed(tmp_path):
    run = read_run(write_run(tmp_path, "grpo"))
    failure = Failure("ppo", "llm", "addition", 0, "boom")
    order = (("ppo", "llm", "addition"), ("sac", "llm", "addition"), ("grpo", "control", "hopper"))
    planned = Results((run,), (failure,), order=order)
    assert planned.methods == ["ppo", "grpo"]  # sac was not tried
    assert planned.tasks == [("llm", "addition"), ("control", "hopper")]


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
