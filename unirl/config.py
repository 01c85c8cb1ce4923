"""From what a user types to one resolved configuration.

Hydra composes the groups `method`, `domain`, `task` and `model`; a group's value may also be the path of a YAML file.
Precedence, weakest first: the domain's defaults for the method's kind of source, the method, the method's
`per_domain` section, the task's `overrides`, the command line.
"""

import copy
from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import yaml
from hydra import compose as hydra_compose
from hydra import initialize_config_module
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from unirl.errors import UserError, unknown
from unirl.registry import part_class

CONFIGS = Path(str(files("unirl.configs")))
GROUPS = ("method", "domain", "task", "model")
LISTED_BY = {"method": "unirl methods", "task": "unirl tasks"}
# Sections whose keys are checked by whoever reads them: parts know their hyper-parameters, a simulator its options.
OPEN_SECTIONS = (
    "method", "domain.engine", "task.data_options", "task.env_kwargs", "task.demonstrations", "task.preferences",
    "task.pretrain", "task.verifier", "task.overrides", "task.perturb", "task.simulator", "task.expert_data",
    "model.lora",
)  # fmt: skip


def compose(overrides: Sequence[str]) -> dict[str, Any]:
    """The full configuration of one run from `key=value` overrides; raises `UserError` for anything wrong."""
    chosen, values = _split(overrides)
    groups = {"method": group_config("method", chosen.get("method", "ppo"))}
    task = group_config("task", chosen["task"]) if "task" in chosen else None
    domain_name = chosen.get("domain") or (task or {}).get("domain") or _first_domain(groups["method"])
    groups["domain"] = group_config("domain", domain_name)
    groups["task"] = task or _default_task(groups)
    model = chosen.get("model") or groups["task"].get("default_model") or groups["domain"]["default_model"]
    groups["model"] = group_config("model", model)
    if groups["task"].get("domain", domain_name) != groups["domain"]["name"]:
        raise UserError(
            f"task '{groups['task']['name']}' belongs to domain={groups['task']['domain']}, not to {domain_name}"
        )
    config = OmegaConf.create({**_top_level(), **groups})
    config.method = _layered_method(groups)
    if not any(key in ("samples", "iterations") for key, _, _ in values):
        _fill_budget(config, groups)
    for key, value, adds in values:
        _apply(config, key, value, adds)
    if config.evaluation_episodes is None:
        config.evaluation_episodes = config.domain.get("evaluation_episodes", 10)
    _check_top_level(config)
    if config.out is None:
        config.out = f"out/{config.method.name}/{config.task.name.replace('/', '-')}/seed_{config.seed}"
    return _plain(config)


def _default_task(groups: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The task that the method names for want of another (`default_task`), where the domain has it, or the domain's."""
    own = groups["method"].get("default_task")
    if own is not None:
        task = group_config("task", str(own))
        if task.get("domain", groups["domain"]["name"]) == groups["domain"]["name"]:
            return task
    return group_config("task", groups["domain"]["default_task"])


# Whole numbers at the top level with the least that they may be; a budget may be null.
LEAST = {"seed": 0, "evaluations": 0, "evaluation_episodes": 1, "checkpoints": 0, "logs": 1, "threads": 1}
BUDGETS = {"samples": 1, "iterations": 1}
TEXTS = {"out": "a folder", "init": "a run folder", "device": "a device such as cpu or cuda"}


def _check_top_level(config: Any) -> None:
    """Take 1e3 for 1000; raises `UserError` for a value of a wrong type or below what makes sense."""
    for key, least in (LEAST | BUDGETS).items():
        value = config[key]
        if isinstance(value, float) and value.is_integer():
            value = config[key] = int(value)
        whole = isinstance(value, int) and not isinstance(value, bool) and value >= least
        if not whole and (value is not None or key not in BUDGETS):
            raise UserError(f"{key} is {value!r}; it must be a whole number of at least {least}")
    for key, what in TEXTS.items():
        if config[key] is not None and not isinstance(config[key], str):
            raise UserError(f"{key} is {config[key]!r}; give {what}")
    if not isinstance(config.plugins, ListConfig | None):
        raise UserError(f"plugins is {config.plugins!r}; give a list of modules: 'plugins=[my_parts]'")


def choices(group: str) -> list[str]:
    """Names available in a group, nested folders as `folder/name`."""
    root = CONFIGS / group
    return sorted(str(path.relative_to(root).with_suffix("")) for path in root.rglob("*.yaml"))


def method_config(name: str) -> dict[str, Any]:
    """The method's YAML as a plain dict, with its `name`."""
    return group_config("method", name)


def group_config(group: str, name: str) -> dict[str, Any]:
    """One group's file: a name among `choices(group)` or the path of a YAML file; gains a `name`."""
    path = Path(name).expanduser()
    if path.suffix in (".yaml", ".yml"):
        return {"name": path.stem, **_read_yaml(path, group)}
    if name not in choices(group):
        raise unknown(group, name, choices(group), see=LISTED_BY.get(group, ""))
    return copy.deepcopy(_shipped(group, name))


@cache
def _shipped(group: str, name: str) -> dict[str, Any]:
    try:
        with initialize_config_module("unirl.configs", version_base="1.3"):
            node = hydra_compose(f"{group}/{name}")
    except (HydraException, OmegaConfBaseException) as error:
        raise UserError(f"{group} '{name}': {_one_line(error)}") from error
    for part in f"{group}/{name}".split("/")[:-1]:  # hydra nests a group's file under its folders
        node = node[part]
    content = _plain(node)
    return {**content, "name": content.get("name", name)} if group == "task" else {**content, "name": name}


@cache
def _top_level_text() -> str:
    return (CONFIGS / "train.yaml").read_text()


def _top_level() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(_top_level_text())
    return content


def _read_yaml(path: Path, group: str) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UserError(f"{group}={path}: {error.strerror or error}") from error
    except yaml.YAMLError as error:
        raise UserError(f"{group}={path} is not valid YAML: {_one_line(error)}") from error
    if not isinstance(content, dict):
        raise UserError(f"{group}={path} holds no mapping; a {group} file starts with `key: value` lines")
    return content


def _split(overrides: Sequence[str]) -> tuple[dict[str, str], list[tuple[str, Any, bool]]]:
    """Overrides as (group choices, [(key, value, whether it may add a key)])."""
    chosen: dict[str, str] = {}
    values: list[tuple[str, Any, bool]] = []
    for text in overrides:
        key, equals, raw = text.partition("=")
        if not equals or not key.strip("+~"):
            raise UserError(f"'{text}' is not key=value (for example seed=3 or method.update.lr=1e-4)")
        if key in GROUPS:
            chosen[key] = _one_name(key, raw)
            continue
        try:
            parsed = OverridesParser.create().parse_override(text)
        except HydraException as error:
            raise UserError(f"cannot read '{text}': {_one_line(error)}") from error
        if parsed.is_delete() or parsed.is_sweep_override():
            raise UserError(f"'{text}' asks for several values; use --multirun or `unirl compare`")
        values.append((parsed.key_or_group, parsed.value(), parsed.is_add() or parsed.is_force_add()))
    return chosen, values


def _one_name(group: str, given: str) -> str:
    """The name, or path, of a group's file; raises `UserError` for a list of them."""
    listed = given.strip("[]")
    if given.endswith((".yaml", ".yml")) or not ("," in given or given.startswith("[")):
        return given
    several = f"`unirl compare '{group}=[{listed}]'`" if group != "model" else f"`--multirun {group}={listed}`"
    raise UserError(f"{group}={given} names several; a run has one, {several} trains each")


def values_of(arguments: Sequence[str]) -> dict[str, Any]:
    """`key=value` arguments that are no part of a configuration, with values read as in overrides."""
    chosen, values = _split(arguments)
    return {**chosen, **{key: value for key, value, _ in values}}


def _first_domain(method: Mapping[str, Any]) -> str:
    domains = method.get("domains") or ["control"]
    return str(domains[0])


def _layered_method(groups: Mapping[str, Mapping[str, Any]]) -> DictConfig | ListConfig:
    method, domain = dict(groups["method"]), groups["domain"]
    per_domain = method.pop("per_domain", None) or {}
    kind = _source_name(method)
    layers = [
        (domain.get("by_source") or {}).get(kind) or {},
        method,
        per_domain.get(domain["name"]) or {},
        groups["task"].get("overrides") or {},
    ]
    return OmegaConf.merge(*(OmegaConf.create(layer) for layer in layers))


def _source_name(method: Mapping[str, Any]) -> str:
    """Whose defaults and budgets the method's source takes: its own, or those of the source that it says it is like."""
    source = method.get("source") or {}
    name = str(source if isinstance(source, str) else source.get("name", "online"))
    try:
        return str(getattr(part_class("source", name), "like", name))
    except UserError:  # a plugin's, which is imported later, or none at all, which is said then
        return name


def _fill_budget(config: Any, groups: Mapping[str, Mapping[str, Any]]) -> None:
    budget = (groups["task"].get("budget") or {}).get(_source_name(groups["method"])) or {}
    for key in ("samples", "iterations"):
        if key in budget:
            config[key] = budget[key]


def _check_entries(config: Any, key: str) -> None:
    """Raise `UserError` for a key below a list that names none of its entries: `method.critic.9`."""
    node, names = config, key.split(".")
    for depth, name in enumerate(names):
        if isinstance(node, ListConfig) and not (name.isdigit() and int(name) < len(node)):
            above = ".".join(names[:depth])
            has = f"it has {', '.join(f'{above}.{i}' for i in range(len(node)))}" if node else "it is empty"
            raise UserError(f"cannot set '{key}': {above} is a list without an entry '{name}'; {has}")
        if not isinstance(node, DictConfig | ListConfig):
            return
        node = node[int(name)] if isinstance(node, ListConfig) else node.get(name)


def _apply(config: Any, key: str, value: Any, adds: bool) -> None:
    _check_entries(config, key)
    parent, _, leaf = key.rpartition(".")
    try:
        node = OmegaConf.select(config, parent) if parent else config
    except OmegaConfBaseException as error:
        raise UserError(f"'{key}': {_one_line(error)}") from error
    open_section = any(key == section or key.startswith(section + ".") for section in OPEN_SECTIONS)
    if node is None and not open_section and not adds:
        raise unknown("key", key, _keys(config))
    if isinstance(node, DictConfig) and leaf not in node and not adds and not open_section:
        raise unknown("key", key, _keys(config))
    try:
        listed = isinstance(OmegaConf.select(config, key), ListConfig)  # is replaced, by a mapping too
        OmegaConf.update(config, key, value, merge=not listed, force_add=True)
    except (OmegaConfBaseException, ValueError, IndexError, TypeError) as error:
        raise UserError(f"cannot set '{key}' to {value!r}: {_one_line(error)}") from error


def _keys(config: Any) -> list[str]:
    """Every dotted key, for near matches."""
    found: list[str] = []

    def walk(node: Any, prefix: str) -> None:
        for name in node:
            child = OmegaConf.select(node, str(name))
            found.append(f"{prefix}{name}")
            if isinstance(child, DictConfig):
                walk(child, f"{prefix}{name}.")

    walk(config, "")
    return found


def _plain(config: Any) -> dict[str, Any]:
    try:
        plain = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        raise UserError(f"configuration: {_one_line(error)}") from error
    assert isinstance(plain, dict)
    return {str(key): value for key, value in plain.items()}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
