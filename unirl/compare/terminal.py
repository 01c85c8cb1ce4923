"""The table that a comparison or a report prints at its end."""

from rich.markup import escape
from rich.table import Table

from unirl.compare.tables import Tables
from unirl.compare.wording import duration, interval_text
from unirl.trainer.progress import format_score


def results_table(tables: Tables) -> Table:
    """Task x method: score at the start and at the end with its interval, cost, finished and failed runs."""
    table = Table(box=None, pad_edge=False, header_style="dim", row_styles=None)
    for name in ("domain", "task", "method"):
        table.add_column(name)
    for name in ("start", "end", "normalised", "time", "runs"):
        table.add_column(name, justify="right")
    for task in tables.tasks:
        for row in task.rows:
            runs = str(len(row.seeds)) + (f" [red]+ {row.failed} failed[/]" if row.failed else "")
            runs += f" [yellow]+ {row.unfinished} unfinished[/]" if row.unfinished else ""
            numbers = (
                format_score(row.start),
                f"{format_score(row.end.value)} [dim]{escape(interval_text(row.end))}[/]",
                format_score(row.normalised),
                duration(row.seconds),
            )
            shown = numbers if row.seeds else ("-",) * 4
            table.add_row(task.domain, task.task, f"[bold]{escape(row.method)}[/]", *shown, runs)
        table.add_section()
    return table
