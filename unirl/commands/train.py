"""`unirl train`."""

import argparse
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from unirl.commands.parser import add_overrides, check_overrides
from unirl.commands.running import add_progress_options, print_result, run_with_progress
from unirl.commands.screen import print_json
from unirl.config import GROUPS, choices, compose
from unirl.errors import UserError
from unirl.run import train

EXAMPLES = """
unirl train method=ppo domain=control task=hopper
unirl train method=grpo domain=llm task=addition seed=3 out=runs/grpo
unirl train method=ppo task=hopper method.update.lr=1e-4 samples=200000
unirl train 'method=ppo,grpo' seed=1,2 --multirun
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of the command."""
    add_overrides(
        parser, "what to train: method, domain, task, model, seed, samples, out, and any key of the configuration"
    )
    parser.add_argument(
        "--multirun", action="store_true", help="train every combination of comma-separated values in turn"
    )
    add_progress_options(parser)


def run(arguments: argparse.Namespace) -> int:
    """Train each configuration in turn; all are checked before the first starts."""
    check_overrides(arguments.overrides, lambda: {group: choices(group) for group in GROUPS})
    runs = combinations(arguments.overrides) if arguments.multirun else [tuple(arguments.overrides)]
    results = []
    for config in [compose(overrides) for overrides in runs]:
        folder = Path(config["out"])
        result = run_with_progress(arguments, folder, lambda sink, config=config: train(config, progress=sink))  # type: ignore[misc]
        results.append(result)
        if not arguments.json:
            print_result(arguments, result, folder)
    if arguments.json:
        print_json(results if arguments.multirun else results[0])
    return 0


def combinations(overrides: Sequence[str]) -> list[tuple[str, ...]]:
    """The cross product of `key=a,b` and `key=range(1,4)` arguments, each with an `out` of its own.

    With `out=DIR` a run goes to `DIR/<key>=<value>,...` (the swept keys); without, to a folder below `out/multirun`.
    """
    options = [_values(text) for text in overrides]
    base = next((text.partition("=")[2] for text in overrides if text.startswith("out=")), "out/multirun")
    expanded = []
    for choice in product(*options):
        swept = [text for text, among in zip(choice, options, strict=True) if len(among) > 1]
        kept = [text for text in choice if not text.startswith("out=")]
        name = ",".join(swept).replace("/", "-") or "run"
        expanded.append((*kept, f"out='{base.strip(chr(39))}/{name}'"))
    return expanded


def _values(text: str) -> list[str]:
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException as error:
        raise UserError(f"cannot read '{text}': {' '.join(str(error).split())}") from error
    if not override.is_sweep_override():
        return [text]
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
