"""What the compared runs were made of: configurations and what differs in them, parts, versions."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import yaml

from unirl.compare.results import SEED_KEYS, Results, Run, flat
from unirl.compare.used_parts import UsedPart, used_parts

# Text about a method, and the layers that the resolved configuration already contains.
NOT_SETTINGS = ("method.name", "method.paper", "method.entry", "method.entries", "method.domains", "method.per_domain")


@dataclass(frozen=True)
class PartRow:
    """A part class and, for each domain, the hyper-parameters of each of its uses (empty: not used there)."""

    part: UsedPart
    settings: Mapping[str, Sequence[tuple[str, ...]]]

    @property
    def shared(self) -> bool:
        """Whether every domain uses it."""
        return all(self.settings.values())


@dataclass(frozen=True)
class MethodParts:
    """The part classes of one method, side by side for the domains it was run in."""

    method: str
    domains: tuple[str, ...]
    rows: tuple[PartRow, ...]

    @property
    def shared(self) -> int:
        """How many part classes every domain uses."""
        return sum(row.shared for row in self.rows)


@dataclass(frozen=True)
class Configuration:
    """A resolved configuration and the runs that had it."""

    title: str
    text: str


@dataclass(frozen=True)
class Differences:
    """Settings of one task in which the methods differ: key -> the value of each method, in the order of `methods`."""

    task: str
    methods: tuple[str, ...]
    rows: Mapping[str, tuple[str, ...]]


def method_parts(results: Results, method: str) -> MethodParts:
    """Which part classes a method used in each domain; parts are the same if they are the same class."""
    per_domain: dict[str, list[UsedPart]] = {}
    for run in results.runs:
        if run.method == method and run.domain not in per_domain:
            per_domain[run.domain] = used_parts(run.config["method"])
    rows: dict[tuple[str, str, str], dict[str, list[tuple[str, ...]]]] = {}
    parts: dict[tuple[str, str, str], UsedPart] = {}
    for domain, used in per_domain.items():
        for part in used:
            key = (part.kind, part.file, part.class_name or part.name)
            parts.setdefault(key, part)
            rows.setdefault(key, {}).setdefault(domain, []).append(part.settings_texts)
    return MethodParts(
        method=method,
        domains=tuple(per_domain),
        rows=tuple(
            PartRow(parts[key], {domain: found.get(domain, []) for domain in per_domain}) for key, found in rows.items()
        ),
    )


def configurations(runs: Sequence[Run]) -> list[Configuration]:
    """Every different configuration once, with the seeds that ran it."""
    texts: dict[tuple[str, str, str, str], list[int]] = {}
    for run in runs:
        text = yaml.safe_dump(_settings(run), sort_keys=False, allow_unicode=True)
        texts.setdefault((run.method, run.domain, run.task, text), []).append(run.seed)
    return [
        Configuration(f"{method} · {domain} · {task} · seed {', '.join(map(str, seeds))}", text)
        for (method, domain, task, text), seeds in texts.items()
    ]


def differences(results: Results) -> list[Differences]:
    """Per task, every setting that is not the same in all of its methods (of the first run of each)."""
    found = []
    for _, task in results.tasks:
        first = {method: results.of(method, task)[0] for method in results.methods if results.of(method, task)}
        settings = {method: dict(flat(_settings(run))) for method, run in first.items()}
        keys = dict.fromkeys(key for own in settings.values() for key in own if not key.startswith(NOT_SETTINGS))
        rows = {key: tuple(_text(own.get(key)) for own in settings.values()) for key in keys}
        differing = {key: values for key, values in rows.items() if len(set(values)) > 1}
        if differing:
            found.append(Differences(task, tuple(settings), differing))
    return found


def versions(runs: Sequence[Run]) -> dict[str, str]:
    """Versions that the runs recorded; where runs differ, all of them."""
    found: dict[str, dict[str, None]] = {}
    for run in runs:
        for name, version in run.result.get("versions", {}).items():
            found.setdefault(name, {})[str(version)] = None
    return {name: ", ".join(values) for name, values in found.items()}


def _settings(run: Run) -> dict[str, object]:
    """A run's configuration without what differs between seeds by design."""
    return {key: value for key, value in run.config.items() if key not in SEED_KEYS}


def _text(value: object) -> str:
    """A value in one line, as YAML writes it; empty where a method does not have the setting."""
    if value is None:
        return ""
    text: str = yaml.safe_dump(value, default_flow_style=True, width=10_000)
    return text.removesuffix("...\n").strip()
