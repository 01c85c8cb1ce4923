"""The files that a comparison leaves: summary.json, report.html, curves.png and one PNG per domain."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unirl.compare.plots import save_curves
from unirl.compare.report import write_report
from unirl.compare.results import Results
from unirl.compare.statistics import CONFIDENCE, REPETITIONS
from unirl.compare.tables import Tables, make_tables


def write_outputs(results: Results, out: Path, title: str = "") -> Tables:
    """Write all of them into `out`; returns the numbers."""
    tables = make_tables(results)
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(_without_nan(as_record(results, tables)), indent=2)
    (out / "summary.json").write_text(text + "\n", encoding="utf-8")
    write_report(results, tables, out / "report.html", title)
    save_curves(results, tables, out / "curves.png")
    for domain in dict.fromkeys(table.domain for table in tables.tasks):
        save_curves(results, tables, out / f"curves_{domain}.png", domain)
    return tables


def write_page(results: Results, path: Path, title: str = "") -> Tables:
    """Write the page alone; returns the numbers."""
    tables = make_tables(results)
    write_report(results, tables, path, title)
    return tables


def as_record(results: Results, tables: Tables) -> dict[str, Any]:
    """Every number that the report's tables show.

    `tasks`: per task the rows of its table and what each method needed to reach a level; `groups`: per domain and over
    all tasks the normalised scores and the probabilities of improvement; `runs`: the content of every result.json;
    `failures`, `skipped`, `command`. An estimate is `value`, `low`, `high`, `runs`; null stands for "there is none".
    """
    return {
        "command": results.command,
        "interval": {"confidence": CONFIDENCE, "resamples": REPETITIONS},
        "tasks": [_without(asdict(table), "bands") for table in tables.tasks],
        "groups": [_without(asdict(table), "bands") for table in tables.groups],
        "runs": [
            {"folder": str(run.folder), **run.result, "normalised_end": run.normalised_end}
            for run in results.runs
            if run.finished
        ],
        "failures": [asdict(failure) for failure in results.failures],
        "skipped": list(results.skipped),
    }


def _without(record: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in record.items() if name != key}


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: null stands for a number that does not exist."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
