"""`unirl resume`."""

import argparse
from pathlib import Path

from unirl.commands.running import add_progress_options, print_result, run_with_progress
from unirl.commands.screen import print_json
from unirl.run import read_config, resume

EXAMPLES = """
unirl resume out/ppo/hopper/seed_0
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("folder", type=Path, metavar="RUN", help="a run folder")
    add_progress_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Train on to the end."""
    folder: Path = arguments.folder
    read_config(folder)
    result = run_with_progress(arguments, folder, lambda sink: resume(folder, progress=sink))
    if arguments.json:
        print_json(result)
    else:
        print_result(arguments, result, folder)
    return 0
