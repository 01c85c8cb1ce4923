"""From `unirl compare` arguments to cells: methods x tasks x seeds, each one training run."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from unirl.config import CONFIGS, choices, compose, group_config, method_config
from unirl.errors import UserError, unknown
from unirl.processors import usable_cores
from unirl.run import check

RULE_KEYS = ("method", "domain", "task", "set")
PRESETS = ("compare", "benchmark")  # folders of `configs/` that hold presets


@dataclass(frozen=True)
class Cell:
    """One training run: `overrides` are what `unirl train` is given."""

    method: str
    domain: str
    task: str
    seed: int
    folder: Path
    overrides: tuple[str, ...]

    @property
    def title(self) -> str:
        """How the cell is called on the screen."""
        return f"{self.method} · {self.task} · seed {self.seed}"


@dataclass(frozen=True)
class Plan:
    """What to train. `skipped` says, a line each, which combinations are left out and why."""

    cells: tuple[Cell, ...]
    skipped: tuple[str, ...]
    out: Path
    jobs: int


def make_plan(arguments: Sequence[str]) -> Plan:
    """Expand `key=value` arguments; raises `UserError` for anything that would make a cell fail before it starts."""
    settings, shared = _settings(arguments)
    out = Path(str(settings["out"]))
    seeds = _seeds(settings["seeds"])
    tasks = _tasks(settings)
    cells: list[Cell] = []
    skipped: list[str] = []
    for method in _as_names(settings["method"]):
        allowed = method_config(method).get("domains")
        for domain, task in tasks:
            if allowed and domain not in allowed:
                skipped.append(f"{method} is for {' and '.join(allowed)}, not for {domain}")
                continue
            overrides: tuple[str, ...] = (f"method={method}", f"domain={domain}", f"task={task}")
            overrides += (*_matching(settings["cells"], method, domain, task), *shared)
            config = compose((*overrides, f"seed={min(seeds)}"))
            check(config)
            name, world = config["method"]["name"], config["task"]["name"]
            folder = out / name / str(world).replace("/", "-")
            cells += [
                Cell(
                    name,
                    domain,
                    world,
                    seed,
                    folder / f"seed_{seed}",
                    _seeded(overrides, seed, folder),
                )
                for seed in seeds
            ]
    if len({cell.folder for cell in cells}) < len(cells):
        raise UserError(
            "two of the methods or tasks have the same name, so their runs would share a folder; rename one"
        )
    if not cells:
        raise UserError(f"nothing to compare: {'; '.join(skipped) or _empty(settings)}  see: unirl methods")
    return Plan(tuple(cells), tuple(dict.fromkeys(skipped)), out, _jobs(settings["jobs"]))


def _empty(settings: Mapping[str, Any]) -> str:
    key = "method" if not _as_names(settings["method"]) else "domain"
    return f"{key}=[] names none"


def _seeded(overrides: tuple[str, ...], seed: int, folder: Path) -> tuple[str, ...]:
    return (*overrides, f"seed={seed}", f"out={_quoted(str(folder / f'seed_{seed}'))}")


def _settings(arguments: Sequence[str]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """(settings of the comparison, overrides for every cell)."""
    defaults = _read(CONFIGS / "compare.yaml")
    given: dict[str, Any] = {}
    shared: list[str] = []
    for text in arguments:
        key, equals, _ = text.partition("=")
        if not equals:
            raise UserError(f"'{text}' is not key=value (for example seeds=3 or 'method=[ppo,grpo]')")
        if key in defaults:
            given[key] = _value(text)
        elif key == "seed":
            raise UserError("compare trains several seeds: seeds=3, or seeds=[3] for seed 3 alone")
        elif "." not in key and get_close_matches(key, defaults, cutoff=0.75):
            raise unknown("setting of compare", key, defaults, see="unirl compare --help")
        else:
            shared.append(text)
    preset = given.get("preset")
    return {**defaults, **(_preset(str(preset)) if preset else {}), **_domain_wins_over_preset_tasks(given)}, tuple(
        shared
    )


def _domain_wins_over_preset_tasks(given: Mapping[str, Any]) -> dict[str, Any]:
    """A typed `domain` means that domain's default task, whatever tasks a preset has."""
    return {"task": None, **given} if "domain" in given else dict(given)


def _preset(name: str) -> dict[str, Any]:
    known = {preset: group for group in PRESETS for preset in choices(group)}
    if name not in known:
        raise unknown("preset", name, known)
    return _read(CONFIGS / known[name] / f"{name}.yaml")


def _read(path: Path) -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(path.read_text())
    return content


def _value(text: str) -> Any:
    try:
        override = OverridesParser.create().parse_override(text)
    except HydraException as error:
        raise UserError(f"cannot read '{text}'; lists are written 'method=[ppo,grpo]'") from error
    if override.is_sweep_override():  # method=ppo,grpo means the same as method=[ppo,grpo] here
        return list(override.sweep_iterator())
    return override.value()


def _tasks(settings: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(domain, task) pairs: the named tasks, or the default task of every named domain."""
    if settings["task"]:
        return [(str(_domain_of(task)), task) for task in _as_names(settings["task"])]
    return [(domain, str(group_config("domain", domain)["default_task"])) for domain in _as_names(settings["domain"])]


def _domain_of(task: str) -> str:
    domain = group_config("task", task).get("domain")
    if domain is None:
        raise UserError(f"task '{task}' does not say which domain it belongs to (`domain: control`)")
    return str(domain)


def _seeds(value: Any) -> list[int]:
    seeds = list(range(value)) if isinstance(value, int) and not isinstance(value, bool) else value
    if not isinstance(seeds, list) or not seeds or not all(isinstance(seed, int) for seed in seeds):
        raise UserError(f"seeds={value} is neither a number of seeds (seeds=3) nor a list of them (seeds=[0,7])")
    return list(dict.fromkeys(seeds))


def _jobs(value: Any) -> int:
    if value is None:
        return usable_cores()
    if not isinstance(value, int) or value < 1:
        raise UserError(f"jobs={value} must be a whole number, at least 1")
    return value


def _as_names(value: Any) -> list[str]:
    names = value if isinstance(value, list) else [value]
    return [str(name) for name in dict.fromkeys(names)]


def _matching(rules: Any, method: str, domain: str, task: str) -> list[str]:
    """Overrides of the rules whose conditions hold for this cell."""
    here = {"method": method, "domain": domain, "task": task}
    found: list[str] = []
    for rule in rules or []:
        if not isinstance(rule, Mapping) or "set" not in rule:
            raise UserError(f"cells: {rule!r} is no rule; write {{method: ppo, set: [samples=20000]}}")
        for key in rule:
            if key not in RULE_KEYS:
                raise unknown("condition in cells", str(key), RULE_KEYS)
        if all(here[key] in _as_names(rule[key]) for key in rule if key != "set"):
            found += _as_names(rule["set"])
    return found


def _quoted(text: str) -> str:
    """A path as a Hydra value: quoted, so that spaces, commas and equals signs in it stay text."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"
