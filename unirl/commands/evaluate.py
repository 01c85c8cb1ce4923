"""`unirl eval`."""

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.table import Table

from unirl.commands.parser import add_overrides
from unirl.commands.screen import console, print_json
from unirl.config import values_of
from unirl.errors import UserError, unknown
from unirl.run import evaluate
from unirl.trainer.progress import format_score

EXAMPLES = """
unirl eval out/ppo/hopper/seed_0
unirl eval out/ppo/hopper/seed_0 --episodes 100 --sampled
unirl eval out/ppo/hopper/seed_0 --video hopper.mp4
unirl eval out/ppo/hopper/seed_0 'perturb={gravity:[0.5,2]}'
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    parser.add_argument("folder", type=Path, metavar="RUN", help="a run folder")
    add_overrides(parser, "perturb={NAME:[LOW,HIGH]}: over a range of changed worlds, where the domain can change them")
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
    perturb = _perturbation(arguments.overrides)
    if perturb is not None:
        return _perturbed(arguments, perturb)
    result = evaluate(arguments.folder, episodes=arguments.episodes, sampled=arguments.sampled, video=arguments.video)
    if arguments.json:
        print_json(result)
        return 0
    width = max(map(len, result))
    for name, value in result.items():
        shown = format_score(value) if isinstance(value, int | float) else str(value)
        console().print(f"{name:<{width}}  {shown}", highlight=False, markup=False, soft_wrap=True)
    return 0


def _perturbation(overrides: list[str]) -> Mapping[str, Any] | None:
    """What `perturb=...` and `perturb.NAME=...` say together; None without them."""
    perturb: dict[str, Any] = {}
    for key, value in values_of(overrides).items():
        head, _, name = key.partition(".")
        if head != "perturb":
            raise unknown("argument of unirl eval", key, ("perturb",), see="unirl eval --help")
        if not name and not isinstance(value, Mapping):
            raise UserError(f"perturb={value}: give names and numbers, for example 'perturb={{gravity:[0.5,2]}}'")
        perturb |= {name: value} if name else value
    return perturb if overrides else None


def _perturbed(arguments: argparse.Namespace, perturb: Mapping[str, Any]) -> int:
    from unirl.robustness import evaluate_perturbed

    if arguments.video is not None:
        raise UserError("--video films the run's own world; leave out perturb, or train with task.perturb")
    report = evaluate_perturbed(arguments.folder, perturb, episodes=arguments.episodes, sampled=arguments.sampled)
    if arguments.json:
        print_json(report)
        return 0
    table = Table(box=None, pad_edge=False, header_style="dim")
    varied, measured = list(report["swept"]), [name for name in report["results"][0] if name != "perturb"]
    for name in (*varied, *measured):
        table.add_column(name, justify="right")
    for entry in report["results"]:
        numbers = [f"{entry['perturb'][name]:.4g}" for name in varied]
        table.add_row(*numbers, *(format_score(entry[name]) for name in measured))
    console().print(table)
    for path in (report["plot"], report["json"]):
        console().print(path, highlight=False, markup=False, soft_wrap=True)
    return 0
