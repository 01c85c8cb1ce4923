"""One self-contained HTML page about a set of runs."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from unirl.compare.chart import Chart, Tick, Whisker, compact, line_chart, padded, ticks, whisker
from unirl.compare.configurations import configurations, differences, method_parts, versions
from unirl.compare.curves import Band
from unirl.compare.results import AXES, Failure, Results
from unirl.compare.statistics import CONFIDENCE, REPETITIONS
from unirl.compare.tables import GroupTable, Tables, TaskTable
from unirl.compare.wording import default_title, duration, interval_text, summary_text
from unirl.trainer.progress import format_score

FEW = 5  # runs per task below which the page warns of rough intervals


@dataclass(frozen=True)
class ScoreAxis:
    """The axis that all normalised scores of the page share, and where each of them lies on it."""

    ticks: tuple[Tick, ...]
    whiskers: Mapping[str, Mapping[str, Whisker]]  # group -> method -> place


def write_report(results: Results, tables: Tables, path: Path, title: str = "") -> None:
    """Write the page; it needs neither network nor any other file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(results, tables, title), encoding="utf-8")


def render(results: Results, tables: Tables, title: str = "") -> str:
    """The page as text."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: files("unirl.compare").joinpath(name).read_text(encoding="utf-8")),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"score": format_score, "duration": duration, "interval": interval_text, "count": _count}
    styles = {method: index for index, method in enumerate(results.methods)}
    seeds = [len(row.seeds) for table in tables.tasks for row in table.rows if row.seeds]
    return environment.get_template("report.html").render(
        title=title or default_title(results),
        summary=summary_text(results, tables),
        ended=max((str(run.result.get("finished", ""))[:10] for run in results.runs), default=""),
        methods=results.methods,
        ranked=_ranked(results, tables),
        styles=styles,
        tables=tables,
        axis=_score_axis(tables.groups),
        matrices=[g for g in (*tables.groups[-1:], *tables.groups[:-1]) if any(g.improvement.values())],
        charts={table.task: _task_charts(table, styles) for table in tables.tasks},
        group_charts={group.name: _group_charts(group, styles) for group in tables.groups},
        fewest=min(seeds, default=0),
        most=max(seeds, default=0),
        few=FEW,
        confidence=f"{CONFIDENCE:.0%}",
        resamples=REPETITIONS,
        method_parts=[method_parts(results, method) for method in results.methods],
        failures=_failures(results),
        skipped=results.skipped,
        command=results.command,
        runs=results.runs,
        differences=differences(results),
        configurations=configurations(results.runs),
        versions=versions(results.runs),
        axes=AXES,
    )


def _task_charts(table: TaskTable, styles: Mapping[str, int]) -> list[Chart]:
    labels = {"samples": f"samples ({table.unit})" if table.unit else "samples", "seconds": "seconds of training"}
    return _charts(table.bands, styles, labels)


def _group_charts(group: GroupTable, styles: Mapping[str, int]) -> list[Chart]:
    labels = {"samples": "percent of each task's longest run, in samples", "seconds": "seconds of training"}
    return _charts(group.bands, styles, labels)


def _charts(
    bands: Mapping[str, Mapping[str, Band]], styles: Mapping[str, int], labels: Mapping[str, str]
) -> list[Chart]:
    made = (line_chart(bands[axis], styles, axis, labels[axis]) for axis in bands)
    return [chart for chart in made if chart is not None]


def _ranked(results: Results, tables: Tables) -> list[str]:
    """Methods by their normalised score over all tasks, the highest first; those without one last, as planned."""
    scores = tables.groups[-1].scores
    return sorted(results.methods, key=lambda method: -scores[method].value if method in scores else math.inf)


def _score_axis(groups: Sequence[GroupTable]) -> ScoreAxis:
    """From 0 to 100, or further where a score or its interval lies outside."""
    found = [estimate for group in groups for estimate in group.scores.values()]
    numbers = [number for e in found for number in (e.value, e.low, e.high) if math.isfinite(number)]
    low, high = padded(min([0.0, *numbers]), max([100.0, *numbers]))
    marks = tuple(Tick(100 * (value - low) / (high - low), compact(value)) for value in ticks(low, high, 2))
    places = {
        group.name: {method: whisker(estimate, low, high) for method, estimate in group.scores.items()}
        for group in groups
    }
    return ScoreAxis(marks, places)


def _count(value: Any) -> str:
    """A number of samples: 12,300; a dash for what does not exist."""
    return "-" if value is None or not math.isfinite(value) else f"{float(f'{value:.3g}'):,.0f}"


def _failures(results: Results) -> list[Failure]:
    """Failed cells, and runs that have not reached their end."""
    unfinished = [
        Failure(
            run.method, run.domain, run.task, run.seed,
            f"no result yet: still running, or stopped (unirl resume {run.folder} continues it)",
        )
        for run in results.runs
        if not run.finished
    ]  # fmt: skip
    order = [(method, task) for method in results.methods for _, task in results.tasks]
    return sorted((*results.failures, *unfinished), key=lambda f: (order.index((f.method, f.task)), f.seed))
