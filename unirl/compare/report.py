"""One self-contained HTML page about a set of runs."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

import jinja2
import yaml

from unirl.compare.chart import Chart, line_chart, sparkline
from unirl.compare.curves import band
from unirl.compare.results import AXES, SEED_KEYS, Failure, Results, Run, Summary, summarise
from unirl.compare.used_parts import UsedPart, used_parts
from unirl.compare.wording import best_row, default_title, duration, signed, spread_text, summary_text
from unirl.trainer.progress import format_score


@dataclass(frozen=True)
class Cell:
    """One method on one task, as the page shows it."""

    summary: Summary
    spark: str
    best: bool


@dataclass(frozen=True)
class Panel:
    """One task: its charts (one per axis) and its rows."""

    domain: str
    task: str
    charts: tuple[Chart, ...]
    cells: tuple[Cell, ...]


@dataclass(frozen=True)
class PartRow:
    """A part class and, for each domain, the hyper-parameters of each of its uses (empty: not used there)."""

    part: UsedPart
    settings: Mapping[str, Sequence[tuple[str, ...]]]

    @property
    def shared(self) -> bool:
        """Whether every domain uses it."""
        return all(self.settings.values())


@dataclass(frozen=True)
class MethodParts:
    """The part classes of one method, side by side for the domains it was run in."""

    method: str
    domains: tuple[str, ...]
    rows: tuple[PartRow, ...]

    @property
    def shared(self) -> int:
        """How many part classes every domain uses."""
        return sum(row.shared for row in self.rows)


@dataclass(frozen=True)
class Configuration:
    """A resolved configuration and the runs that had it."""

    title: str
    text: str


def write_report(results: Results, path: Path, title: str = "") -> None:
    """Write the page; it needs neither network nor any other file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(render(results, title), encoding="utf-8")


def render(results: Results, title: str = "") -> str:
    """The page as text."""
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(lambda name: files("unirl.compare").joinpath(name).read_text(encoding="utf-8")),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {"score": format_score, "signed": signed, "duration": duration, "spread": spread_text}
    styles = {method: index for index, method in enumerate(results.methods)}
    panels = [_panel(results, domain, task, styles) for domain, task in results.tasks]
    seeds = max((len(cell.summary.seeds) for panel in panels for cell in panel.cells), default=0)
    return environment.get_template("report.html").render(
        title=title or default_title(results),
        summary=summary_text(results),
        methods=results.methods,
        styles=styles,
        panels=panels,
        matrix={(c.summary.method, p.task): c for p in panels for c in p.cells},
        seeds=seeds,
        method_parts=[method_parts(results, method) for method in results.methods],
        failures=_failures(results),
        skipped=results.skipped,
        command=results.command,
        configurations=configurations(results.runs),
        versions=versions(results.runs),
        axes=AXES,
    )


def method_parts(results: Results, method: str) -> MethodParts:
    """Which part classes a method used in each domain; parts are the same if they are the same class."""
    per_domain: dict[str, list[UsedPart]] = {}
    for run in results.runs:
        if run.method == method and run.domain not in per_domain:
            per_domain[run.domain] = used_parts(run.config["method"])
    rows: dict[tuple[str, str, str], dict[str, list[tuple[str, ...]]]] = {}
    parts: dict[tuple[str, str, str], UsedPart] = {}
    for domain, used in per_domain.items():
        for part in used:
            key = (part.kind, part.file, part.class_name or part.name)
            parts.setdefault(key, part)
            rows.setdefault(key, {}).setdefault(domain, []).append(part.settings_texts)
    return MethodParts(
        method=method,
        domains=tuple(per_domain),
        rows=tuple(
            PartRow(parts[key], {domain: found.get(domain, []) for domain in per_domain}) for key, found in rows.items()
        ),
    )


def configurations(runs: Sequence[Run]) -> list[Configuration]:
    """Every different configuration once, with the seeds that ran it."""
    texts: dict[tuple[str, str, str, str], list[int]] = {}
    for run in runs:
        shown = {key: value for key, value in run.config.items() if key not in SEED_KEYS}
        text = yaml.safe_dump(shown, sort_keys=False, allow_unicode=True)
        texts.setdefault((run.method, run.domain, run.task, text), []).append(run.seed)
    return [
        Configuration(f"{method} · {domain} · {task} · seed {', '.join(map(str, seeds))}", text)
        for (method, domain, task, text), seeds in texts.items()
    ]


def versions(runs: Sequence[Run]) -> dict[str, str]:
    """Versions that the runs recorded; where runs differ, all of them."""
    found: dict[str, dict[str, None]] = {"python": {platform.python_version(): None}}
    recorded = [run.result.get("versions", {}) for run in runs]
    if any("python" in entry for entry in recorded):
        found = {}
    for entry in recorded:
        for name, version in entry.items():
            found.setdefault(name, {})[str(version)] = None
    return {name: ", ".join(values) for name, values in found.items()}


def _panel(results: Results, domain: str, task: str, styles: Mapping[str, int]) -> Panel:
    rows = [summary for summary in summarise(results) if summary.task == task]
    best = best_row(results, task)
    unit = _unit(results, task)
    labels = {"samples": f"samples ({unit})" if unit else "samples", "seconds": "seconds of training"}
    bands = {axis: {method: band(results.of(method, task), axis) for method in results.methods} for axis in AXES}
    charts = (line_chart(bands[axis], styles, axis, labels[axis]) for axis in AXES)
    means = [score for found in bands["samples"].values() for score in found.mean] or [0.0]
    low, high = min(means), max(means)  # shared, so that the small curves of a task can be compared
    cells = tuple(Cell(row, sparkline(bands["samples"][row.method], low, high), row == best) for row in rows)
    return Panel(domain, task, tuple(chart for chart in charts if chart is not None), cells)


def _unit(results: Results, task: str) -> str:
    units = [str(run.result["sample_unit"]) for run in results.runs if run.task == task and "sample_unit" in run.result]
    return units[0] if units else ""


def _failures(results: Results) -> list[Failure]:
    unfinished = [
        Failure(run.method, run.domain, run.task, run.seed, f"unfinished: {run.folder} has no result.json")
        for run in results.runs
        if not run.finished
    ]
    return [*results.failures, *unfinished]
