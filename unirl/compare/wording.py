"""The words and numbers of a report: title, summary, signs, durations."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from unirl.trainer.progress import format_score

if TYPE_CHECKING:  # statistics take seconds to import, and what only shows progress needs none
    from unirl.compare.results import Results
    from unirl.compare.statistics import Estimate
    from unirl.compare.tables import Tables


def default_title(results: "Results") -> str:
    """`4 methods in 2 domains`, or the names where there is only one of a thing."""
    methods, tasks = results.methods, results.tasks
    if len(methods) == 1 and len(tasks) == 1:
        return f"{methods[0]} on {tasks[0][1]}"
    left = f"{len(methods)} methods" if len(methods) > 1 else methods[0]
    domains = list(dict.fromkeys(domain for domain, _ in tasks))
    return f"{left} in {len(domains)} domains" if len(domains) > 1 else f"{left} on {join([task for _, task in tasks])}"


def summary_text(results: "Results", tables: "Tables") -> str:
    """The opening paragraph: what was run, how much of it worked, who ended highest where."""
    finished = [run for run in results.runs if run.finished]
    total = len(results.runs) + len(results.failures)
    where = join([f"{task} ({domain})" for domain, task in results.tasks])
    text = [f"{join(results.methods)} {'were' if len(results.methods) > 1 else 'was'} trained on {where}."]
    cost = f", {duration(sum(run.seconds for run in finished))} of training in all" if finished else ""
    text.append(f"{len(finished)} of {total} runs reached their end{cost}.")
    for table in tables.tasks:
        if table.best is not None:
            text.append(
                f"On {table.task}, {table.best.method} ends highest, at {estimate_text(table.best.end)}, "
                f"from {format_score(table.best.start)} before training."
            )
    return " ".join(text)


def estimate_text(estimate: "Estimate") -> str:
    """`87.1 [80.2, 93.0]`; the value alone where there is no interval."""
    return f"{format_score(estimate.value)} {interval_text(estimate)}".strip()


def interval_text(estimate: "Estimate") -> str:
    """`[80.2, 93.0]`; empty where there is no interval."""
    return f"[{format_score(estimate.low)}, {format_score(estimate.high)}]" if estimate.has_interval else ""


def duration(seconds: float) -> str:
    """Seconds as people say them: 8.2 s, 3 min 20 s, 2 h 5 min."""
    if math.isnan(seconds):
        return "-"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    return f"{minutes // 60} h {minutes % 60} min"


def join(words: Sequence[str]) -> str:
    """`a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
