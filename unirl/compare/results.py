"""Reading run folders: what was trained, how it went, which part classes it used."""

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from unirl.compare.normalised import normalised_score, scale_text
from unirl.errors import UserError
from unirl.trainer.progress import SCORE

AXES = ("samples", "seconds")
FAILURE = "failure.json"  # in the folder of a cell that failed
SEED_KEYS = ("seed", "out")  # what differs between the runs of one cell by design


@dataclass(frozen=True)
class Curve:
    """One run's evaluations in order: `samples[i]`, `seconds[i]`, `score[i]` and `normalised[i]` belong together.

    `normalised` is the score in percent of the task's scale (nan where it has none, which `scale` then says: "").
    """

    samples: tuple[float, ...]
    seconds: tuple[float, ...]
    score: tuple[float, ...]
    normalised: tuple[float, ...] = ()
    scale: str = ""

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
    def normalised_end(self) -> float:
        """Score at the last evaluation in percent of the task's scale (nan where there is none)."""
        return self.curve.normalised[-1] if self.curve.normalised else math.nan

    @property
    def samples(self) -> float:
        """How many samples were used (nan if never evaluated)."""
        return float(self.result.get("samples", self.curve.samples[-1] if self.curve.samples else math.nan))

    @property
    def seconds(self) -> float:
        """Wall-clock seconds of training, evaluations included."""
        return float(self.result.get("seconds", self.curve.seconds[-1] if self.curve.seconds else math.nan))


@dataclass(frozen=True)
class Failure:
    """A run that did not reach its end, with the last lines it wrote and the file that holds all of them."""

    method: str
    domain: str
    task: str
    seed: int
    log: str
    file: str = ""

    @property
    def reason(self) -> str:
        """The last line it wrote, which names the error; how it ended where it wrote nothing."""
        *words, end = [line.strip() for line in self.log.splitlines() if line.strip()] or [""]
        return (words[-1] if words else end).removeprefix("unirl: ")


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
        """The runs of one method on one task, in the order of their seeds."""
        return sorted((run for run in self.runs if run.method == method and run.task == task), key=lambda run: run.seed)

    def finished(self, method: str, task: str) -> list[Run]:
        """Those of them that reached their end and were evaluated there."""
        return [run for run in self.of(method, task) if run.finished and math.isfinite(run.end)]

    def failed(self, method: str, task: str) -> list[Failure]:
        """The failed cells of one method on one task."""
        return [failure for failure in self.failures if failure.method == method and failure.task == task]


def read_run(folder: Path) -> Run:
    """Read one run folder; raises `UserError` if it is none."""
    config_path = folder / "config.yaml"
    if not config_path.is_file():
        raise UserError(f"{folder} is not a run folder: it has no config.yaml")
    result_path = folder / "result.json"
    try:
        config = yaml.safe_load(config_path.read_text())
        result = json.loads(result_path.read_text()) if result_path.is_file() else {}
        curve = read_curve(folder / "metrics.jsonl", config["task"])
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
    except (KeyError, TypeError, ValueError, ZeroDivisionError, yaml.YAMLError) as error:
        what = f"{type(error).__name__} {' '.join(str(error).split())}"
        raise UserError(f"{folder} is not a readable run folder: {what}") from error


def read_curve(path: Path, task: Mapping[str, Any]) -> Curve:
    """The evaluations of a `metrics.jsonl`, normalised as the configuration of the `task` says.

    Scores that are no number are left out, and so is an unfinished last line (of a running or killed run).
    """
    rows: list[tuple[float, float, float, float]] = []
    scale = ""
    lines = path.read_text().splitlines() if path.is_file() else []
    for number, line in enumerate(lines):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            if number == len(lines) - 1:
                break
            raise
        score = row.get(SCORE)
        if score is not None and math.isfinite(score):
            normalised = normalised_score(row, float(score), task)
            rows.append((float(row["samples"]), float(row["seconds"]), float(score), normalised))
            scale = scale_text(row, task)
    samples, seconds, scores, normalised_scores = zip(*rows, strict=True) if rows else ((), (), (), ())
    return Curve(samples, seconds, scores, normalised_scores, scale)


def read_results(folders: Sequence[Path], command: str = "") -> Results:
    """All runs and failed cells at or below the given folders.

    Runs of one method and task with different configurations are told apart (see `distinguish`). Raises `UserError`
    where there is none, or where one is given twice: the same seed and configuration repeat bit for bit, and counting
    them as two runs would feign a certainty that is not there.
    """
    found, failures = [], []
    for folder in find_runs(folders):
        if (folder / FAILURE).is_file():
            failures.append(Failure(**json.loads((folder / FAILURE).read_text())))
        else:
            found.append(read_run(folder))
    runs = distinguish(found)
    _check_repeats(runs)
    return Results(tuple(runs), tuple(failures), command=command)


def _check_repeats(runs: Sequence[Run]) -> None:
    known: dict[tuple[str, str, int], Run] = {}
    for run in runs:
        other = known.setdefault((run.method, run.task, run.seed), run)
        if other is not run:
            raise UserError(
                f"{other.folder} and {run.folder} are both seed {run.seed} of {run.method} on {run.task} with one "
                "configuration: they are no two runs; leave one out"
            )


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """Folders of runs and failed cells at or below the given folders, each once, in the given order.

    Raises `UserError` for a folder without any.
    """
    found: list[Path] = []
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"{folder} is not a folder")
        below = sorted({path.parent for name in ("config.yaml", FAILURE) for path in folder.rglob(name)})
        if not below:
            raise UserError(f"no run folder (config.yaml, metrics.jsonl) in or below {folder}")
        found += below
    return _in_order(found)


def distinguish(runs: Sequence[Run]) -> list[Run]:
    """Add what differs to the method's name where runs of one method and task have different configurations.

    Two learning rates of PPO become `ppo (update.lr=0.001)` and `ppo (update.lr=0.0001)`: they are no seeds of one.
    """
    settings = {run.folder: dict(flat({k: v for k, v in run.config.items() if k not in SEED_KEYS})) for run in runs}
    named = []
    for run in runs:
        peers = [settings[other.folder] for other in runs if (other.method, other.task) == (run.method, run.task)]
        keys = _in_order(key for peer in peers for key in peer)
        differing = [key for key in keys if any(peer.get(key) != peers[0].get(key) for peer in peers)]
        own = ", ".join(f"{key.removeprefix('method.')}={settings[run.folder].get(key)}" for key in differing)
        named.append(replace(run, method=f"{run.method} ({own})") if own else run)
    return named


def flat(value: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of everything in nested mappings; lists stay whole."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from flat(item, f"{prefix}.{key}" if prefix else str(key))
    else:
        yield prefix, value


def _in_order(values: Iterable[Any]) -> list[Any]:
    return list(dict.fromkeys(values))
