"""`unirl compare`."""

import argparse
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from unirl.commands.interruption import TrainingInterruptedError
from unirl.commands.parser import add_overrides
from unirl.commands.screen import console
from unirl.compare.live import LiveCells
from unirl.compare.plan import Plan, make_plan
from unirl.compare.results import Failure, Results, read_run
from unirl.compare.runner import locked, run_cells, split_finished
from unirl.compare.watch import Dashboard

EXAMPLES = """
unirl compare 'method=[ppo,grpo,mdpo]' 'domain=[control,llm]' seeds=3 out=out/first
unirl compare 'method=[sac,td3,ppo]' task=hopper seeds=5 samples=100000 --watch
unirl compare preset=demo
unirl compare 'method=[ppo,grpo]' task=addition seeds=3 method.update.lr=1e-4 jobs=4

The same command again trains only the cells that are not finished yet.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add_overrides(
        parser,
        "method, domain, task: a name or a [list]; seeds, jobs, out, preset; every other key is set in all cells",
    )
    parser.add_argument(
        "--watch", action="store_true", help="a dashboard of all cells: scores so far, speed, time left"
    )


def run(arguments: argparse.Namespace) -> int:
    """Train what is not finished, then write the report; 1 if a cell failed."""
    plan = make_plan(arguments.overrides)
    command = shlex.join(["unirl", "compare", *arguments.overrides])
    with locked(plan.out) as lock:
        failures = _train(plan, lock, command, arguments.watch)
        results = collect(plan, failures, command)
        _show(results, plan.out)
    if failures:
        failed = f"{len(failures)} of {len(plan.cells)} cells failed"
        print(f"unirl: {failed}; the first, see {failures[0].file}: {failures[0].reason}", file=sys.stderr)
    return 1 if failures else 0


def collect(plan: Plan, failures: Sequence[Failure], command: str) -> Results:
    """Read what the cells left behind; unfinished ones count as the failures that they are."""
    finished = [cell for cell in plan.cells if (cell.folder / "result.json").exists()]
    runs = tuple(read_run(Path(cell.folder)) for cell in finished)
    order = tuple((cell.method, cell.domain, cell.task) for cell in plan.cells)
    return Results(runs, tuple(failures), plan.skipped, command, order)


def _train(plan: Plan, lock: int, command: str, watch: bool) -> list[Failure]:
    todo, done = split_finished(plan.cells)
    screen = console()
    for line in plan.skipped:
        screen.print(f"skipped: {line}", highlight=False, markup=False, soft_wrap=True)
    if done:
        screen.print(f"{len(done)} of {len(plan.cells)} cells were finished before", highlight=False)
    display = Dashboard(screen, todo, plan.jobs) if watch and screen.is_terminal else LiveCells(screen, len(todo))
    try:
        with display:
            return run_cells(todo, plan.jobs, display, lock=lock)
    except KeyboardInterrupt:
        raise TrainingInterruptedError(f"interrupted; the same command continues: {command}") from None


def _show(results: Results, out: Path) -> None:
    from unirl.compare.output import write_outputs  # statistics and plots take seconds to import: not before the cells
    from unirl.compare.terminal import results_table

    tables = write_outputs(results, out)
    screen = console()
    screen.print()
    screen.print(results_table(tables))
    screen.print(f"\nreport: {out / 'report.html'}", highlight=False, markup=False, soft_wrap=True)
