"""`unirl report`."""

import argparse
from pathlib import Path

from unirl.commands.screen import console
from unirl.compare.live import results_table
from unirl.compare.output import write_outputs
from unirl.compare.results import Results, distinguish, find_runs, read_run

EXAMPLES = """
unirl report out/compare
unirl report out/ppo/hopper out/sac/hopper --out out/ppo_or_sac --title 'PPO or SAC?'
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("folders", type=Path, nargs="+", metavar="RUN", help="run folders, or folders that hold some")
    parser.add_argument(
        "--out", type=Path, metavar="DIR", help="where to write (default: the folder, or ./report for several)"
    )
    parser.add_argument("--title", default="", help="the page's title")


def run(arguments: argparse.Namespace) -> int:
    """Write the report and print its table."""
    folders: list[Path] = arguments.folders
    results = Results(tuple(distinguish([read_run(folder) for folder in find_runs(folders)])))
    out = arguments.out or (folders[0] if len(folders) == 1 else Path("report"))
    write_outputs(results, out, arguments.title)
    console().print(results_table(results))
    console().print(f"\nreport: {out / 'report.html'}", highlight=False, markup=False, soft_wrap=True)
    return 0
