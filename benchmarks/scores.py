"""Scores of unirl's methods beside other libraries' on the same tasks, steps and seeds: JSON and a page of the docs.

Runs that are there are not made again, so an interrupted benchmark goes on where it stopped.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WORKERS = Path(__file__).parent / "workers"
DOCS = Path(__file__).parent.parent / "docs" / "benchmarks"
REFERENCES = {"hopper": (-20.272305, 3234.3), "halfcheetah": (-280.178953, 12135.0)}  # D4RL: random, expert


@dataclass(frozen=True)
class PeerRun:
    """One run of another library: a script of `workers/`, its arguments, and what it is called in the table."""

    library: str
    method: str
    task: str
    seed: int
    script: str
    arguments: tuple[str, ...]

    @property
    def name(self) -> str:
        """Of its result's file."""
        return f"{self.library}-{self.method}-{self.task}-{self.seed}".lower()


def parser(description: str | None, budget: str, default: int, out: str) -> argparse.ArgumentParser:
    """The options that both benchmarks have; `--BUDGET` is how long a run is."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument(f"--{budget}", type=int, default=default)
    made.add_argument("--seeds", type=int, default=2)
    made.add_argument("--methods", nargs="*")
    made.add_argument("--peers", default=".venv-peers/bin/python")
    made.add_argument("--out", type=Path, default=Path(out))
    return made


def compare(preset: str, out: Path, overrides: Sequence[str]) -> list[dict[str, Any]]:
    """`unirl compare`, and one record per run that it finished."""
    subprocess.run(
        [sys.executable, "-m", "unirl.cli", "compare", f"preset={preset}", f"out={out}", *overrides], check=False
    )
    return [_of_run(path.parent) for path in sorted(out.glob("*/*/seed_*/result.json"))]


def _of_run(folder: Path) -> dict[str, Any]:
    result = json.loads((folder / "result.json").read_text())
    lines = (json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines())
    scores = [line["eval/score"] for line in lines if "eval/score" in line]
    task = folder.parent.name
    return {"library": "unirl", "method": result["method"], "task": task, "seed": result["seed"], "scores": scores}


def peers(runs: Sequence[PeerRun], python: str, out: Path) -> list[dict[str, Any]]:
    """Train what is missing, as many at a time as there are cores; one record per run."""
    out.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1"}

    def trained(run: PeerRun) -> dict[str, Any]:
        store = out / f"{run.name}.json"
        if not store.exists():
            words = [python, str(WORKERS / run.script), *run.arguments]
            done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
            store.write_text(done.stdout.splitlines()[-1] + "\n")
            print(f"{run.name}: {json.loads(store.read_text())['scores'][-1]:.0f}", flush=True)
        scores = json.loads(store.read_text())["scores"]
        return {
            "library": run.library,
            "method": run.method,
            "task": run.task,
            "seed": run.seed,
            "scores": scores,
        }

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        return list(pool.map(trained, runs))


def normalized(task: str, score: float) -> float:
    """D4RL's normalised score in percent."""
    random, expert = next(found for name, found in REFERENCES.items() if task.startswith(name))
    return 100.0 * (score - random) / (expert - random)


def write(name: str, head: str, records: Sequence[Mapping[str, Any]]) -> None:
    """`docs/benchmarks/NAME.json` and `NAME.md`: scores at the end and the best during training, mean (range)."""
    rounded = [{**record, "scores": [round(score, 1) for score in record["scores"]]} for record in records]
    DOCS.mkdir(exist_ok=True)
    lines = ",\n ".join(json.dumps(record) for record in rounded)
    (DOCS / f"{name}.json").write_text(f"[\n {lines}\n]\n")
    (DOCS / f"{name}.md").write_text(head + table(rounded))


def table(records: Sequence[Mapping[str, Any]]) -> str:
    """A row per method and library, a column per task."""
    tasks = sorted({str(record["task"]) for record in records})
    rows = ["| method | library | " + " | ".join(tasks) + " |", "|---|---|" + "---|" * len(tasks)]
    for method, library in sorted({(str(record["method"]), str(record["library"])) for record in records}):
        cells = [_cell([r for r in records if (r["method"], r["library"], r["task"]) == (method, library, task)])
                 for task in tasks]  # fmt: skip
        rows.append(f"| {method} | {library} | " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def _cell(runs: Sequence[Mapping[str, Any]]) -> str:
    """Final normalised scores: mean (smallest to largest), then the mean of the best during training."""
    if not runs:
        return ""
    ends = [normalized(str(run["task"]), run["scores"][-1]) for run in runs]
    best = statistics.mean(normalized(str(run["task"]), max(run["scores"])) for run in runs)
    return f"**{statistics.mean(ends):.1f}** ({min(ends):.1f} to {max(ends):.1f}), best {best:.1f}"
