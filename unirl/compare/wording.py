"""The words and numbers of a report: title, summary, signs, durations."""

import math
from collections.abc import Sequence

from unirl.compare.results import Results, Spread, Summary, summarise
from unirl.trainer.progress import format_score


def default_title(results: Results) -> str:
    """`4 methods in 2 domains`, or the names where there is only one of a thing."""
    methods, tasks = results.methods, results.tasks
    if len(methods) == 1 and len(tasks) == 1:
        return f"{methods[0]} on {tasks[0][1]}"
    left = f"{len(methods)} methods" if len(methods) > 1 else methods[0]
    domains = list(dict.fromkeys(domain for domain, _ in tasks))
    return f"{left} in {len(domains)} domains" if len(domains) > 1 else f"{left} on {join([task for _, task in tasks])}"


def summary_text(results: Results) -> str:
    """The opening paragraph: what was run, how much of it worked, who ended highest where."""
    finished = [run for run in results.runs if run.finished]
    total = len(results.runs) + len(results.failures)
    where = join([f"{task} ({domain})" for domain, task in results.tasks])
    text = [f"{join(results.methods)} {'were' if len(results.methods) > 1 else 'was'} trained on {where}."]
    seconds = sum(run.seconds for run in finished)
    text.append(f"{len(finished)} of {total} runs reached their end, {duration(seconds)} of training in all.")
    for _, task in results.tasks:
        best = best_row(results, task)
        if best is not None and len(results.methods) > 1:
            text.append(
                f"On {task}, {best.method} has the highest {'mean ' if len(best.seeds) > 1 else ''}end score: "
                f"{format_score(best.end.mean)}, from {format_score(best.start.mean)} before training."
            )
    return " ".join(text)


def best_row(results: Results, task: str) -> Summary | None:
    """The row with the highest mean end score; None where it is shared or there is nothing to compare."""
    rows = [s for s in summarise(results) if s.task == task and not math.isnan(s.end.mean)]
    top = [s for s in rows if s.end.mean == max(row.end.mean for row in rows)]
    return top[0] if len(top) == 1 and len(rows) > 1 else None


def signed(value: float) -> str:
    """A score difference with its sign."""
    if math.isnan(value):
        return "-"
    return ("+" if value >= 0 else "−") + format_score(abs(value))


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


def spread_text(spread: Spread) -> str:
    """`12 to 15`; empty where every seed gave the same, or there was one."""
    return "" if spread.low == spread.high else f"{format_score(spread.low)} to {format_score(spread.high)}"


def join(words: Sequence[str]) -> str:
    """`a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
