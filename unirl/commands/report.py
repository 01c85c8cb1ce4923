"""`unirl report`."""

import argparse
import shlex
from pathlib import Path

from unirl.commands.screen import console

EXAMPLES = """
unirl report out/compare
unirl report out/ppo/hopper out/sac/hopper --out out/ppo_or_sac --title 'PPO or SAC?'
unirl report out/compare --out ppo_or_sac.html
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("folders", type=Path, nargs="+", metavar="RUN", help="run folders, or folders that hold some")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="DIR|FILE.html",
        help="a folder for the page, its numbers and pictures, or a file for the page alone "
        "(default: the given folder, or ./report for several)",
    )
    parser.add_argument("--title", default="", help="the page's title")


def run(arguments: argparse.Namespace) -> int:
    """Write the report and print its table. Runs may be unfinished or killed; they are listed as such."""
    from unirl.compare.output import write_outputs, write_page  # takes seconds to import; `--help` does not wait
    from unirl.compare.results import read_results
    from unirl.compare.terminal import results_table

    folders: list[Path] = arguments.folders
    command = shlex.join(["unirl", "report", *map(str, folders)])
    results = read_results(folders, command)
    out = arguments.out or (folders[0] if len(folders) == 1 else Path("report"))
    if out.suffix == ".html":
        tables, page = write_page(results, out, arguments.title), out
    else:
        tables, page = write_outputs(results, out, arguments.title), out / "report.html"
    console().print(results_table(tables))
    console().print(f"\nreport: {page}", highlight=False, markup=False, soft_wrap=True)
    return 0
