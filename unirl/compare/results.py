"""Reading run folders: what was trained, how it went, which part classes it used."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from unirl.errors import UserError
from unirl.trainer.progress import SCORE

AXES = ("samples", "seconds")
SEED_KEYS = ("seed", "out")  # what differs between the runs of one cell by design


@dataclass(frozen=True)
class Curve:
    """One run's evaluations in order: `samples[i]`, `seconds[i]` and `score[i]` belong together."""

    samples: tuple[float, ...]
    seconds: tuple[float, ...]
    score: tuple[float, ...]

    def axis(self, name: str) -> tuple[float, ...]:
        """The x values of an axis of `AXES`."""
        return self.samples if name == "samples" else self.seconds


@dataclass(frozen=True)
class Run:
    """A run folder that has been read. `result` is empty where the training has not reached its end."""

    folder: Path
    method: str
    domain: str
    task: str
    seed: int
    config: Mapping[str, Any]
    curve: Curve
    result: Mapping[str, Any]

    @property
    def finished(self) -> bool:
        """Whether training reached its end."""
        return bool(self.result)

    @property
    def start(self) -> float:
        """Score before training (nan if never evaluated)."""
        return float(self.result.get("score_start", self.curve.score[0] if self.curve.score else math.nan))

    @property
    def end(self) -> float:
        """Score at the last evaluation (nan if never evaluated)."""
        return float(self.result.get("score_end", self.curve.score[-1] if self.curve.score else math.nan))

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of training, evaluations included."""
        return float(self.result.get("seconds", self.curve.seconds[-1] if self.curve.seconds else math.nan))


@dataclass(frozen=True)
class Spread:
    """Mean, minimum and maximum over seeds."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Iterable[float]) -> "Spread":
        """Of at least one finite number; all nan if there is none."""
        finite = [value for value in values if math.isfinite(value)]
        if not finite:
            return cls(math.nan, math.nan, math.nan)
        return cls(sum(finite) / len(finite), min(finite), max(finite))


@dataclass(frozen=True)
class Summary:
    """One method on one task over its seeds. `failed` counts cells without a finished run."""

    method: str
    domain: str
    task: str
    seeds: tuple[int, ...]
    start: Spread
    end: Spread
    change: Spread
    seconds: Spread
    failed: int = 0


@dataclass(frozen=True)
class Failure:
    """A run that did not reach its end, with the last lines it wrote."""

    method: str
    domain: str
    task: str
    seed: int
    log: str


@dataclass(frozen=True)
class Results:
    """All that a report shows. `order`: (method, domain, task) as they are to be listed; others follow."""

    runs: tuple[Run, ...]
    failures: tuple[Failure, ...] = ()
    skipped: tuple[str, ...] = ()
    command: str = ""
    order: tuple[tuple[str, str, str], ...] = ()

    @property
    def methods(self) -> list[str]:
        """Methods, each once."""
        return _in_order(method for method, _, _ in self._cells())

    @property
    def tasks(self) -> list[tuple[str, str]]:
        """(domain, task), each once."""
        return _in_order((domain, task) for _, domain, task in self._cells())

    def _cells(self) -> Iterator[tuple[str, str, str]]:
        """(method, domain, task) of everything that was tried."""
        tried = [(run.method, run.domain, run.task) for run in self.runs]
        tried += [(failure.method, failure.domain, failure.task) for failure in self.failures]
        yield from (cell for cell in self.order if cell in tried)
        yield from tried

    def of(self, method: str, task: str) -> list[Run]:
        """The runs of one method on one task."""
        return [run for run in self.runs if run.method == method and run.task == task]


def read_run(folder: Path) -> Run:
    """Read one run folder; raises `UserError` if it is none."""
    config_path = folder / "config.yaml"
    if not config_path.is_file():
        raise UserError(f"{folder} is not a run folder: it has no config.yaml")
    config = yaml.safe_load(config_path.read_text())
    result_path = folder / "result.json"
    try:
        result = json.loads(result_path.read_text()) if result_path.is_file() else {}
        curve = read_curve(folder / "metrics.jsonl")
        return Run(
            folder=folder,
            method=str(config["method"]["name"]),
            domain=str(config["domain"]["name"]),
            task=str(config["task"]["name"]),
            seed=int(config["seed"]),
            config=config,
            curve=curve,
            result=result,
        )
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{folder} is not a readable run folder: {type(error).__name__} {error}") from error


def read_curve(path: Path) -> Curve:
    """The evaluations of a `metrics.jsonl`.

    Scores that are no number are left out, and so is an unfinished last line (of a running or killed run).
    """
    rows = []
    lines = path.read_text().splitlines() if path.is_file() else []
    for number, line in enumerate(lines):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            if number == len(lines) - 1:
                break
            raise
        if row.get(SCORE) is not None and math.isfinite(row[SCORE]):
            rows.append((float(row["samples"]), float(row["seconds"]), float(row[SCORE])))
    return Curve(*(tuple(column) for column in zip(*rows, strict=True))) if rows else Curve((), (), ())


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """Run folders at or below the given folders, each once, in the given order; raises `UserError` if there is none."""
    found: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder")
        below = (
            [folder] if (folder / "config.yaml").is_file() else sorted(p.parent for p in folder.rglob("config.yaml"))
        )
        if not below:
            raise UserError(f"no run folder (config.yaml, metrics.jsonl) in or below {folder}")
        found += below
    return _in_order(found)


def distinguish(runs: Sequence[Run]) -> list[Run]:
    """Add what differs to the method's name where runs of one method and task have different configurations.

    Two learning rates of PPO become `ppo (update.lr=0.001)` and `ppo (update.lr=0.0001)`: they are no seeds of one.
    """
    flat = {run.folder: dict(_flat({k: v for k, v in run.config.items() if k not in SEED_KEYS})) for run in runs}
    named = []
    for run in runs:
        peers = [flat[other.folder] for other in runs if (other.method, other.task) == (run.method, run.task)]
        keys = _in_order(key for peer in peers for key in peer)
        differing = [key for key in keys if any(peer.get(key) != peers[0].get(key) for peer in peers)]
        settings = ", ".join(f"{key.removeprefix('method.')}={flat[run.folder].get(key)}" for key in differing)
        named.append(replace(run, method=f"{run.method} ({settings})") if settings else run)
    return named


def _flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _flat(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def summarise(results: Results) -> list[Summary]:
    """One row per method and task that was tried, methods first."""
    rows = []
    for method in results.methods:
        for domain, task in results.tasks:
            runs = results.of(method, task)
            done = [run for run in runs if run.finished]
            failed = len(runs) - len(done) + sum(f.method == method and f.task == task for f in results.failures)
            if runs or failed:
                rows.append(_summary(method, domain, task, done, failed))
    return rows


def _summary(method: str, domain: str, task: str, done: Sequence[Run], failed: int) -> Summary:
    return Summary(
        method=method,
        domain=domain,
        task=task,
        seeds=tuple(run.seed for run in done),
        start=Spread.of(run.start for run in done),
        end=Spread.of(run.end for run in done),
        change=Spread.of(run.end - run.start for run in done),
        seconds=Spread.of(run.seconds for run in done),
        failed=failed,
    )


def _in_order(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))
