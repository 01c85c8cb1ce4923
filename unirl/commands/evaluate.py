"""`unirl eval`."""

import argparse
from pathlib import Path

from unirl.commands.screen import console, print_json
from unirl.errors import UserError
from unirl.run import evaluate
from unirl.trainer.progress import format_score

EXAMPLES = """
unirl eval out/ppo/hopper/seed_0
unirl eval out/ppo/hopper/seed_0 --episodes 100 --sampled
unirl eval out/ppo/hopper/seed_0 --video hopper.mp4
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("folder", type=Path, metavar="RUN", help="a run folder")
    parser.add_argument("--episodes", type=int, help="episodes or prompts (default: as in training)")
    decisions = parser.add_mutually_exclusive_group()
    decisions.add_argument("--sampled", action="store_const", const=True, help="sample decisions")
    decisions.add_argument(
        "--greedy", dest="sampled", action="store_const", const=False, help="take the likeliest ones"
    )
    parser.add_argument("--video", type=Path, metavar="FILE.mp4", help="film one episode, where the domain can")
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(arguments: argparse.Namespace) -> int:
    """Print the metrics of the evaluation."""
    if arguments.episodes is not None and arguments.episodes < 1:
        raise UserError(f"--episodes {arguments.episodes}: at least 1 is needed")
    result = evaluate(arguments.folder, episodes=arguments.episodes, sampled=arguments.sampled, video=arguments.video)
    if arguments.json:
        print_json(result)
        return 0
    width = max(map(len, result))
    for name, value in result.items():
        shown = format_score(value) if isinstance(value, int | float) else str(value)
        console().print(f"{name:<{width}}  {shown}", highlight=False, markup=False, soft_wrap=True)
    return 0
