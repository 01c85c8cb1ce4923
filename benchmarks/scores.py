"""Scores of unirl's methods beside other libraries' on the same tasks, budgets and seeds: JSON and a page of the docs.

A run that stands in the JSON is not made again, so a benchmark may be spread over days and machines, and one that is
interrupted goes on where it stopped. `--again` makes the named methods anew.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import product
from pathlib import Path
from typing import Any

from unirl.config import group_config

WORKERS = Path(__file__).parent / "workers"
DOCS = Path(__file__).parent.parent / "docs" / "benchmarks"
REFERENCES = {"hopper": (-20.272305, 3234.3), "halfcheetah": (-280.178953, 12135.0)}  # D4RL: random, expert
EVALUATIONS, EPISODES = 5, 10


@dataclass(frozen=True)
class Run:
    """What is trained: `budget` is in updates or in steps of the environment, as the benchmark says."""

    library: str
    method: str
    task: str
    seed: int
    budget: int

    def normalized(self, score: float) -> float:
        """D4RL's normalised score in percent: 0 is random, 100 an expert."""
        random, expert = next(found for name, found in REFERENCES.items() if self.task.startswith(name))
        return 100.0 * (score - random) / (expert - random)


class Scores:
    """Mean returns of every run, before training and after each part of it, with the version of its library."""

    def __init__(self, name: str, page: Callable[["Scores"], str]) -> None:
        self._name, self._page = name, page
        self.found: dict[Run, list[float]] = {}
        self.versions: dict[Run, str] = {}
        self._read()

    def __contains__(self, run: Run) -> bool:
        return run in self.found

    def add(self, run: Run, scores: Sequence[float], of_library: str) -> None:
        """Keep a run's scores, beside those that another process has added; both files are written at once."""
        self._read()
        self.found[run] = [round(score, 1) for score in scores]
        self.versions[run] = of_library
        self._write()

    def forget(self, methods: Iterable[str]) -> None:
        """Drop unirl's runs of these methods."""
        for run in [run for run in self.found if run.library == "unirl" and run.method in set(methods)]:
            del self.found[run]
        self._write()

    def _read(self) -> None:
        for record in json.loads(self._file("json").read_text()) if self._file("json").exists() else []:
            scores, of_library = record.pop("scores"), record.pop("version")
            self.found[Run(**record)], self.versions[Run(**record)] = scores, of_library

    def _write(self) -> None:
        ordered = sorted(self.found, key=lambda run: (run.budget, run.method, run.library, run.task, run.seed))
        records = [{**asdict(run), "version": self.versions[run], "scores": self.found[run]} for run in ordered]
        DOCS.mkdir(exist_ok=True)
        self._file("json").write_text("[\n " + ",\n ".join(map(json.dumps, records)) + "\n]\n")
        self._file("md").write_text(self._page(self))

    def _file(self, kind: str) -> Path:
        return DOCS / f"{self._name}.{kind}"


def parser(description: str | None, budget: str, default: int, out: str) -> argparse.ArgumentParser:
    """The options that both benchmarks have; `--BUDGET` is how long a run is."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(f"--{budget}", type=int, default=default, dest="budget")
    made.add_argument("--seeds", type=int, default=2)
    made.add_argument("--methods", nargs="*", help="only these, of unirl and of the other library")
    made.add_argument("--again", action="store_true", help="train unirl's --methods anew")
    made.add_argument("--peers", default=".venv-peers/bin/python")
    made.add_argument("--out", type=Path, default=Path(out))
    return made


def train_ours(scores: Scores, preset: str, tasks: Mapping[str, str], options: argparse.Namespace, unit: str) -> None:
    """`unirl compare` of the methods of a preset that lack a run. `tasks`: what a task is called, and what it is given.

    `unit` is the budget's key in a configuration.
    """
    methods = options.methods or group_config("benchmark", preset)["method"]
    out = options.out / str(options.budget) / "unirl"
    if options.again:
        scores.forget(methods)
        for method in methods:
            shutil.rmtree(out / method, ignore_errors=True)
    runs = [Run("unirl", *names, options.budget) for names in product(methods, tasks, range(options.seeds))]
    _collect(scores, runs, out)
    for task, given in tasks.items():
        lacking = dict.fromkeys(run.method for run in runs if run.task == task and run not in scores)
        if lacking:
            words = [sys.executable, "-m", "unirl.cli", "compare", f"preset={preset}", f"out={out}", f"task=[{given}]"]
            words += [f"method=[{','.join(lacking)}]", f"seeds={options.seeds}", f"{unit}={options.budget}"]
            subprocess.run(words, check=False)
            _collect(scores, runs, out)


def _collect(scores: Scores, runs: Iterable[Run], out: Path) -> None:
    """Keep the scores of runs that are finished."""
    for run in runs:
        folder = out / run.method / run.task / f"seed_{run.seed}"
        if run not in scores and (folder / "result.json").exists():
            lines = (json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())
            scores.add(run, [line["eval/score"] for line in lines if "eval/score" in line], version("unirl"))


def train_peers(scores: Scores, commands: Mapping[Run, Sequence[str]], python: str) -> None:
    """Train another library's runs that are not there, as many at a time as there are cores.

    A command is a script of `workers/` and its arguments, followed by budget, seed, evaluations and episodes. It prints
    one line of JSON.
    """
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def trained(run: Run) -> dict[str, Any]:
        script, *arguments = commands[run]
        words = [python, str(WORKERS / script), *arguments, *map(str, (run.budget, run.seed, EVALUATIONS, EPISODES))]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{run}: {done.stderr[-2000:]}")
        made: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        return made

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        pending = {pool.submit(trained, run): run for run in commands if run not in scores}
        for done in as_completed(pending):
            run, result = pending[done], done.result()
            scores.add(run, result["scores"], result["version"])
            print(f"{run.library} {run.method}, {run.task}, seed {run.seed}: {result['scores'][-1]:.0f}", flush=True)


def tables(scores: Scores, unit: str) -> str:
    """One table per budget: a row per method and library, a column per task."""
    budgets = sorted({run.budget for run in scores.found})
    return "\n".join(
        f"## {budget:,} {unit}\n\n{_table([run for run in scores.found if run.budget == budget], scores)}"
        for budget in budgets
    )


def versions(scores: Scores) -> str:
    """Which versions of the libraries were run."""
    pairs = sorted({(run.library, of_library) for run, of_library in scores.versions.items() if run in scores})
    return "Versions: " + ", ".join(" ".join(pair) for pair in pairs) + ".\n"


def _table(runs: Sequence[Run], scores: Scores) -> str:
    tasks = sorted({run.task for run in runs})
    rows = ["| method | library | " + " | ".join(tasks) + " |", "|---|---|" + "---|" * len(tasks)]
    for method, library in sorted({(run.method, run.library) for run in runs}):
        chosen = [run for run in runs if (run.method, run.library) == (method, library)]
        cells = [_cell([run for run in chosen if run.task == task], scores) for task in tasks]
        rows.append(f"| {method} | {library} | " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def _cell(runs: Sequence[Run], scores: Scores) -> str:
    """Final normalised scores: mean (smallest to largest), then the mean of the best during training."""
    if not runs:
        return ""
    ends = [run.normalized(scores.found[run][-1]) for run in runs]
    best = statistics.mean(run.normalized(max(scores.found[run])) for run in runs)
    return f"**{statistics.mean(ends):.1f}** ({min(ends):.1f} to {max(ends):.1f}), best {best:.1f}"
