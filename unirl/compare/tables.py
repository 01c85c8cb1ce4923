"""The numbers of a report: per task, per domain, over all tasks. `summary.json` holds them, the page shows them."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np

from unirl.compare.curves import NO_BANDS, Band, bands_of, bands_over_tasks, reached
from unirl.compare.results import AXES, Results, Run
from unirl.compare.statistics import NOTHING, Estimate, balanced, improvement_estimate, iqm, iqm_estimate

SHARES = (0.5, 0.9)  # of the way from the start to the best method's end
TIE = 1e-6  # relative: scores are means of single-precision numbers
ALL = "all tasks"


@dataclass(frozen=True)
class TaskRow:
    """One method on one task. `start`, `end`, `normalised` are interquartile means over `seeds`, the finished runs.

    `failed` counts the failed cells, `unfinished` the runs without a result; both are left out of the numbers.
    `normalised` is the end in percent of the task's scale. `samples` and `seconds` are means per run.
    """

    method: str
    seeds: tuple[int, ...]
    failed: int
    unfinished: int
    start: float
    end: Estimate
    normalised: float
    samples: float
    seconds: float

    @property
    def samples_per_second(self) -> float:
        """Speed of training, evaluations included."""
        return self.samples / self.seconds if self.seconds > 0 else math.nan


@dataclass(frozen=True)
class Level:
    """A score of a task and what each method needed until its curve reached it (None: it never did)."""

    share: float
    score: float
    samples: Mapping[str, float | None]
    seconds: Mapping[str, float | None]


@dataclass(frozen=True)
class TaskTable:
    """One task: a row per method that was tried on it. `scale` says what 0 and 100 mean; empty: not normalised."""

    domain: str
    task: str
    unit: str
    scale: str
    rows: tuple[TaskRow, ...]
    levels: tuple[Level, ...]
    bands: Mapping[str, Mapping[str, Band]] = field(repr=False)  # axis -> method -> curve

    @property
    def best(self) -> TaskRow | None:
        """The row with the highest end; None where it is shared or there is nothing to compare."""
        rows = [row for row in self.rows if math.isfinite(row.end.value)]
        highest = max((row.end.value for row in rows), default=math.nan)
        top = [row for row in rows if math.isclose(row.end.value, highest, rel_tol=TIE)]
        return top[0] if len(top) == 1 and len(rows) > 1 else None


@dataclass(frozen=True)
class GroupTable:
    """Several tasks together: those of a domain, or all.

    `scores`: normalised end scores over `tasks`; `improvement[x][y]`: probability that x ends higher than y, from raw
    scores and therefore also on `raw_only`, the tasks without a scale. `absent`: method -> why it has no entry.
    """

    name: str
    tasks: tuple[str, ...]
    raw_only: tuple[str, ...]
    scores: Mapping[str, Estimate]
    improvement: Mapping[str, Mapping[str, Estimate]]
    absent: Mapping[str, str]
    bands: Mapping[str, Mapping[str, Band]] = field(repr=False)


@dataclass(frozen=True)
class Tables:
    """All of them."""

    tasks: tuple[TaskTable, ...]
    groups: tuple[GroupTable, ...]


def make_tables(results: Results) -> Tables:
    """Compute every number of a report."""
    tasks = tuple(_task_table(results, domain, task) for domain, task in results.tasks)
    domains = list(dict.fromkeys(table.domain for table in tasks))
    groups = [_group_table(results, domain, [t for t in tasks if t.domain == domain]) for domain in domains]
    if len(domains) > 1:
        groups.append(_group_table(results, ALL, tasks))
    return Tables(tasks, tuple(groups))


def _task_table(results: Results, domain: str, task: str) -> TaskTable:
    methods = [m for m in results.methods if results.of(m, task) or results.failed(m, task)]
    runs = [run for method in methods for run in results.of(method, task)]
    bands = _by_axis({method: bands_of(results.of(method, task)) for method in methods})
    rows = tuple(_task_row(results, method, task) for method in methods)
    return TaskTable(
        domain=domain,
        task=task,
        unit=next((str(run.result["sample_unit"]) for run in runs if "sample_unit" in run.result), ""),
        scale=_scale(runs),
        rows=rows,
        levels=_levels(rows, bands),
        bands=bands,
    )


def _task_row(results: Results, method: str, task: str) -> TaskRow:
    runs, done = results.of(method, task), results.finished(method, task)
    return TaskRow(
        method=method,
        seeds=tuple(run.seed for run in done),
        failed=len(results.failed(method, task)),
        unfinished=len(runs) - len(done),
        start=_iqm(run.start for run in done),
        end=iqm_estimate(balanced([[run.end for run in done]])) if done else NOTHING,
        normalised=_iqm(run.normalised_end for run in done),
        samples=_mean(run.samples for run in done),
        seconds=_mean(run.seconds for run in done),
    )


def _iqm(values: Iterable[float]) -> float:
    column = list(values)
    return float(iqm(np.array(column)[:, None])) if column else math.nan


def _mean(values: Iterable[float]) -> float:
    finite = [value for value in values if math.isfinite(value)]
    return sum(finite) / len(finite) if finite else math.nan


def _scale(runs: Sequence[Run]) -> str:
    """The scale of a task; empty if one of its runs has none or another."""
    scales = {run.curve.scale for run in runs if run.curve.score}
    return scales.pop() if len(scales) == 1 else ""


def _levels(rows: Sequence[TaskRow], bands: Mapping[str, Mapping[str, Band]]) -> tuple[Level, ...]:
    """Shares of the way from the lowest start to the best end; none if no method ended above where it began."""
    ended = [row for row in rows if row.seeds]
    if not ended:
        return ()
    low, high = min(row.start for row in ended), max(row.end.value for row in ended)
    if not high > low:
        return ()
    scores = [(share, low + share * (high - low)) for share in SHARES]
    return tuple(
        Level(share, score, *({row.method: reached(bands[axis][row.method], score) for row in ended} for axis in AXES))
        for share, score in scores
    )


def _group_table(results: Results, name: str, tables: Sequence[TaskTable]) -> GroupTable:
    names = [table.task for table in tables]
    tasks = tuple(table.task for table in tables if table.scale)
    absent: dict[str, str] = {}
    present: list[str] = []
    for method in results.methods:
        missing = [task for task in names if not results.finished(method, task)]
        if missing:
            absent[method] = "no finished run on " + ", ".join(missing)
        else:
            present.append(method)
    return GroupTable(
        name=name,
        tasks=tasks,
        raw_only=tuple(task for task in names if task not in tasks),
        scores={method: _normalised(results, method, tasks) for method in present} if tasks else {},
        improvement=_improvement(results, present, names),
        absent=absent,
        bands=_group_bands(results, [t for t in tables if t.scale], present) if len(tasks) > 1 and present else {},
    )


def _improvement(results: Results, methods: Sequence[str], tasks: Sequence[str]) -> dict[str, dict[str, Estimate]]:
    ends = {m: balanced([[run.end for run in results.finished(m, task)] for task in tasks]) for m in methods}
    found: dict[str, dict[str, Estimate]] = {method: {} for method in methods}
    for x, y in combinations(methods, 2):
        forth = improvement_estimate(ends[x], ends[y])
        found[x][y] = forth
        found[y][x] = Estimate(1 - forth.value, 1 - forth.high, 1 - forth.low, forth.runs)
    return found


def _normalised(results: Results, method: str, tasks: Sequence[str]) -> Estimate:
    columns = [[run.normalised_end for run in results.finished(method, task)] for task in tasks]
    return iqm_estimate(balanced(columns))


def _group_bands(results: Results, tables: Sequence[TaskTable], methods: Sequence[str]) -> dict[str, dict[str, Band]]:
    ends = [max(run.samples for m in methods for run in results.finished(m, table.task)) for table in tables]
    if not min(ends) > 0:
        return _by_axis(dict.fromkeys(methods, NO_BANDS))
    runs = {method: [results.finished(method, table.task) for table in tables] for method in methods}
    return _by_axis({method: bands_over_tasks(runs[method], ends) for method in methods})


def _by_axis(bands: Mapping[str, Mapping[str, Band]]) -> dict[str, dict[str, Band]]:
    """Bands by method and axis, as bands by axis and method."""
    return {axis: {method: found[axis] for method, found in bands.items()} for axis in AXES}
