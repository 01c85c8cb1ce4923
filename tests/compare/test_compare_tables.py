import math

import pytest
from compare_fakes import write_run

from unirl.compare import statistics
from unirl.compare.results import Failure, Results, read_run
from unirl.compare.tables import ALL, make_tables


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch):
    monkeypatch.setattr(statistics, "REPETITIONS", 100)


def runs_of(root, method, ends, task="hopper", domain="control", normalised=True, **rest):
    """One run per end; normalised scores are a tenth of the raw ones."""
    return [
        read_run(
            write_run(
                root, method, task, domain, seed, scores=(10.0, 20.0, end),
                normalised=(1.0, 2.0, end / 10) if normalised else None, **rest,
            )
        )
        for seed, end in enumerate(ends)
    ]  # fmt: skip


def test_a_row_is_the_iqm_of_the_finished_runs_and_counts_the_others(tmp_path):
    runs = runs_of(tmp_path, "ppo", [30.0, 40.0, 50.0, 90.0])  # without 30 and 90: 45
    runs.append(read_run(write_run(tmp_path, seed=7, finished=False)))
    (table,) = make_tables(Results(tuple(runs), (Failure("ppo", "control", "hopper", 8, "boom"),))).tasks
    (row,) = table.rows
    assert (row.seeds, row.failed, row.unfinished) == ((0, 1, 2, 3), 1, 1)
    assert (row.start, row.end.value, row.normalised, row.end.runs) == (10.0, 45.0, 4.5, 4)
    assert 30.0 <= row.end.low < 45.0 < row.end.high <= 90.0
    assert (row.samples, row.seconds, row.samples_per_second) == (200.0, 1.0, 200.0)
    assert (table.unit, table.best) == ("environment steps", None)


def test_a_method_whose_runs_all_failed_keeps_its_row(tmp_path):
    results = Results((*runs_of(tmp_path, "ppo", [30.0]),), (Failure("sac", "control", "hopper", 0, "boom"),))
    tables = make_tables(results)
    assert [(row.method, row.seeds, row.failed) for row in tables.tasks[0].rows] == [("ppo", (0,), 0), ("sac", (), 1)]
    assert tables.groups[0].absent == {"sac": "no finished run on hopper"}


def test_levels_are_shares_of_the_way_from_the_start_to_the_best_end(tmp_path):
    # the best end is 50, the start 10: half of the way is 30, nine tenths 46
    # a: 10 at 0 and 20 at 100, 50 at 200 samples: 30 at 133.3, 46 at 186.7 (0.5 s per 100 samples); b never passes 25
    runs = runs_of(tmp_path, "a", [50.0]) + runs_of(tmp_path, "b", [25.0])
    half, most = make_tables(Results(tuple(runs))).tasks[0].levels
    assert (half.score, most.score) == (30.0, 46.0)
    assert (half.samples["a"], half.seconds["a"]) == (pytest.approx(400 / 3), pytest.approx(2 / 3))
    assert most.samples["a"] == pytest.approx(100 + 100 * 26 / 30)
    assert half.samples["b"] is half.seconds["b"] is None


def test_no_levels_where_nobody_rose(tmp_path):
    assert make_tables(Results(tuple(runs_of(tmp_path, "a", [5.0])))).tasks[0].levels == ()


def two_domains(root, methods):
    """hopper and addition, normalised, and chat without a scale."""
    runs = []
    for method, (hopper, addition, chat) in methods.items():
        runs += runs_of(root, method, hopper)
        runs += runs_of(root, method, addition, "addition", "llm")
        runs += runs_of(root, method, chat, "chat", "llm", normalised=False)
    return Results(tuple(runs))


def test_groups_are_domains_and_all_tasks_and_leave_out_what_has_no_scale(tmp_path):
    # ppo, normalised: hopper 3 and 5, addition 7 and 9; four runs: the middle two are 5 and 7
    # grpo: 2 and 4, 2 and 2: the middle of 2 2 2 4
    results = two_domains(tmp_path, {"ppo": ([30, 50], [70, 90], [11, 12]), "grpo": ([20, 40], [20, 20], [12, 30])})
    tables = make_tables(results)
    assert [(group.name, group.tasks, group.raw_only) for group in tables.groups] == [
        ("control", ("hopper",), ()), ("llm", ("addition",), ("chat",)), (ALL, ("hopper", "addition"), ("chat",)),
    ]  # fmt: skip
    assert [group.scores["ppo"].value for group in tables.groups] == [4.0, 8.0, 6.0]
    assert tables.groups[-1].scores["grpo"].value == 2.0
    # 30 50 against 20 40 on hopper: 1 + 2 of 4; 70 90 against 20 20: 4 of 4; 11 12 against 12 30: a tie, 0.5 of 4
    assert tables.groups[-1].improvement["ppo"]["grpo"].value == pytest.approx((0.75 + 1 + 0.125) / 3)
    assert tables.groups[-1].improvement["grpo"]["ppo"].value == pytest.approx(1 - 1.875 / 3)
    forth, back = tables.groups[0].improvement["ppo"]["grpo"], tables.groups[0].improvement["grpo"]["ppo"]
    assert (back.low, back.high) == (1 - forth.high, 1 - forth.low)
    assert tables.groups[-1].bands["samples"]["ppo"].x == (0.0, 50.0, 100.0)


def test_a_method_without_runs_on_a_task_is_not_aggregated_over_it(tmp_path):
    results = two_domains(tmp_path, {"ppo": ([30, 50], [70, 90], [11, 12])})
    results = Results((*results.runs, *runs_of(tmp_path, "sac", [60.0])))
    control, llm, together = make_tables(results).groups
    assert set(control.scores) == {"ppo", "sac"}
    assert llm.absent == {"sac": "no finished run on addition, chat"}
    assert set(together.scores) == {"ppo"}
    assert together.improvement == {"ppo": {}}


def test_tasks_with_fewer_runs_set_how_many_the_others_give(tmp_path):
    # hopper has seeds 0, 1, 2 (3, 5 and 100 normalised), addition only one (7): the first of hopper counts, (3 + 7) / 2
    runs = runs_of(tmp_path, "ppo", [30, 50, 1000]) + runs_of(tmp_path, "ppo", [70], "addition", "llm")
    tables = make_tables(Results(tuple(runs)))
    found = tables.groups[-1].scores["ppo"]
    assert (found.value, found.runs, found.has_interval) == (5.0, 1, False)
    assert tables.tasks[0].rows[0].end.runs == 3  # on its own, hopper counts all of them


def test_one_seed_has_no_interval_and_one_method_nothing_to_improve_on(tmp_path):
    tables = make_tables(Results(tuple(runs_of(tmp_path, "ppo", [30.0]))))
    (row,) = tables.tasks[0].rows
    assert (row.end.value, row.end.has_interval) == (30.0, False)
    (group,) = tables.groups
    assert (group.scores["ppo"].value, group.improvement) == (3.0, {"ppo": {}})


def test_runs_that_were_normalised_differently_are_not_averaged(tmp_path):
    own = {"task": {"name": "hopper", "reference_score": {"random": 0, "expert": 9}}}
    runs = runs_of(tmp_path, "a", [30.0]) + runs_of(tmp_path, "b", [30.0], config=own)
    tables = make_tables(Results(tuple(runs)))
    assert tables.tasks[0].scale == ""
    assert (tables.groups[0].tasks, tables.groups[0].scores) == ((), {})


def test_nothing_but_failures_makes_empty_tables():
    tables = make_tables(Results((), (Failure("ppo", "control", "hopper", 0, "boom"),)))
    assert math.isnan(tables.tasks[0].rows[0].end.value)
    assert (tables.groups[0].scores, tables.groups[0].bands) == ({}, {})
