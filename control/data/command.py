"""`unirl collect`: make a dataset with any policy."""

from collections.abc import Sequence
from typing import Any

import yaml

from unirl.commands.parser import Parser, add_overrides
from unirl.commands.screen import console
from unirl.config import compose
from unirl.control.data.collect import FORMATS, collect
from unirl.errors import UserError, unknown

EXAMPLES = """
unirl collect task=hopper out=hopper.hdf5 policy=out/sac/hopper/seed_0 steps=100000
unirl collect task=inverted_pendulum out=expert.hdf5 policy=inverted_pendulum episodes=20 noise=0.1
unirl collect task=hopper out=sb3.hdf5 policy=agent.zip episodes=50 format=both minari_id=mine/hopper-v0
"""
OWN = ("out", "policy", "episodes", "steps", "format", "noise", "minari_id")
WHAT = (
    "task=NAME and out=FILE.hdf5; policy=random, a scripted expert, a run folder or a Stable-Baselines3 .zip "
    f"(a pickle: loading it runs its code); episodes=N or steps=N; format={'|'.join(FORMATS)}; noise=STD; seed=N; "
    "minari_id=ID"
)


def command(arguments: Sequence[str]) -> int:
    """Parse, collect, say what was made."""
    parser = Parser("collect", "Record a policy as a D4RL file or a Minari dataset.", EXAMPLES)
    add_overrides(parser, WHAT)
    own, overrides = _split(parser.read(arguments).overrides)
    if not any(text.startswith("task=") for text in overrides):
        raise UserError("collect needs a task, for example task=hopper")
    if "out" not in own:
        raise UserError("collect needs a file to write, for example out=hopper.hdf5")
    if "episodes" not in own and "steps" not in own:
        own["episodes"] = 10
    config = compose(["domain=control", *overrides])
    made = collect(config["task"], own.pop("out"), seed=int(config["seed"]), **own)
    score = "" if made.normalized_score is None else f", D4RL-normalised {made.normalized_score:.1f}"
    where = " and ".join(str(place) for place in (made.file, made.minari_id) if place is not None)
    what = f"{made.transitions:,} transitions, {made.episodes} episodes, mean return {made.return_mean:.1f}{score}"
    console().print(f"{what}: {where}", highlight=False, markup=False, soft_wrap=True)
    return 0


def _split(texts: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """The command's own keys, and the overrides of the configuration."""
    own: dict[str, Any] = {}
    overrides: list[str] = []
    for text in texts:
        key, equals, raw = text.partition("=")
        if not equals:
            raise UserError(f"'{text}' is not key=value")
        if key in OWN:
            own[key] = raw if key in ("out", "policy", "format", "minari_id") else _number(key, raw)
        elif key.split(".")[0] in ("task", "seed"):
            overrides.append(text)
        else:
            raise unknown("key of collect", key, (*OWN, "task", "seed"), see="unirl collect --help")
    return own, overrides


def _number(key: str, raw: str) -> float | int:
    value = yaml.safe_load(raw)
    wanted = (int, float) if key == "noise" else int
    if isinstance(value, bool) or not isinstance(value, wanted):
        raise UserError(f"{key}={raw} is not a {'number' if key == 'noise' else 'whole number'}")
    return value  # type: ignore[no-any-return]
