"""The files that a comparison leaves: results.json, report.html, curves.png and one PNG per domain."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unirl.compare.plots import save_curves
from unirl.compare.report import write_report
from unirl.compare.results import Results, summarise


def write_outputs(results: Results, out: Path, title: str = "") -> None:
    """Write all of them into `out`."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "results.json").write_text(json.dumps(_without_nan(as_record(results)), indent=2) + "\n", encoding="utf-8")
    write_report(results, out / "report.html", title)
    save_curves(results, out / "curves.png")
    for domain in dict.fromkeys(domain for domain, _ in results.tasks):
        save_curves(results, out / f"curves_{domain}.png", [pair for pair in results.tasks if pair[0] == domain])


def as_record(results: Results) -> dict[str, Any]:
    """Everything that the report shows, without the curves.

    `summary`: one entry per method and task; `runs`: the content of every result.json; `failures`, `skipped`,
    `command`.
    """
    return {
        "command": results.command,
        "summary": [asdict(row) for row in summarise(results)],
        "runs": [{"folder": str(run.folder), **run.result} for run in results.runs if run.finished],
        "failures": [asdict(failure) for failure in results.failures],
        "skipped": list(results.skipped),
    }


def _without_nan(value: Any) -> Any:
    """JSON has no NaN: null stands for a number that does not exist."""
    if isinstance(value, dict):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
