"""Paired timing: two worker processes on the same pinned cores take turns; the figure is the median of paired ratios.

Machines are shared and their speed drifts by tens of percent within minutes. Two chunks that follow each other meet
the same machine, so their ratio is far more stable than either speed. Which worker goes first alternates.
"""

import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

WORKERS = Path(__file__).parent / "workers"


@dataclass(frozen=True)
class Side:
    """One worker: the interpreter of its environment, a script of `workers/`, and the script's arguments."""

    name: str
    python: str
    script: str
    arguments: tuple[str, ...] = ()


@dataclass(frozen=True)
class Comparison:
    """Ours against a peer, in the same unit of work, on the same cores."""

    name: str
    unit: str
    ours: Side
    peer: Side
    pairs: int = 10
    cores: tuple[int, ...] = (0,)
    target: float | None = None  # the ratio of speeds we want to reach
    memory_target: float | None = None  # the ratio of peak memory we want to stay below


class Worker:
    """A worker process that does one chunk whenever it is told to."""

    def __init__(self, side: Side, cores: Sequence[int]) -> None:
        threads = str(len(cores))
        environment = os.environ | {
            "OMP_NUM_THREADS": threads,
            "MKL_NUM_THREADS": threads,
            "XLA_FLAGS": f"--xla_cpu_multi_thread_eigen={'false' if len(cores) == 1 else 'true'}",
            "PYTHONPATH": str(Path(__file__).parent),
        }
        self._process = subprocess.Popen(
            ["taskset", "-c", ",".join(map(str, cores)), side.python, str(WORKERS / side.script), *side.arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE if not os.environ.get("UNIRL_BENCH_VERBOSE") else None,
            text=True,
            env=environment,
        )
        self.side = side

    def wait_until_ready(self) -> dict[str, str]:
        """Versions of what the worker runs on."""
        versions: dict[str, str] = self._read()["versions"]
        return versions

    def chunk(self) -> dict[str, Any]:
        """Let the worker do one chunk: units, seconds, peak_mb."""
        assert self._process.stdin is not None
        self._process.stdin.write("go\n")
        self._process.stdin.flush()
        return self._read()

    def stop(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.communicate()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            _, errors = self._process.communicate()
            raise RuntimeError(f"worker '{self.side.name}' ended:\n{(errors or '')[-2000:]}")
        message: dict[str, Any] = json.loads(line)
        return message


def compare(comparison: Comparison) -> dict[str, Any]:
    """Run the pairs; returns speeds, the median of paired ratios with quartiles, peak memory and versions."""
    workers = [Worker(side, comparison.cores) for side in (comparison.ours, comparison.peer)]
    try:
        versions = {worker.side.name: worker.wait_until_ready() for worker in workers}
        measured: list[list[dict[str, Any]]] = [[], []]
        for pair in range(comparison.pairs):
            for index in (0, 1) if pair % 2 == 0 else (1, 0):
                measured[index].append(workers[index].chunk())
            print(f"  {comparison.name}: pair {pair + 1}/{comparison.pairs}", end="\r", file=sys.stderr, flush=True)
    finally:
        for worker in workers:
            worker.stop()
    return _summary(comparison, measured, versions)


def _summary(
    comparison: Comparison, measured: list[list[dict[str, Any]]], versions: dict[str, dict[str, str]]
) -> dict[str, Any]:
    ours, theirs = ([chunk["units"] / chunk["seconds"] for chunk in side] for side in measured)
    ratios = sorted(mine / other for mine, other in zip(ours, theirs, strict=True))
    low, median, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
    peaks = [side[-1]["peak_mb"] for side in measured]
    return {
        "benchmark": comparison.name,
        "unit": comparison.unit,
        "cores": len(comparison.cores),
        "ours": round(statistics.median(ours), 1),
        "peer": comparison.peer.name,
        "peer_speed": round(statistics.median(theirs), 1),
        "ratio": round(median, 3),
        "ratio_quartiles": [round(low, 3), round(high, 3)],
        "pairs": len(ratios),
        "target": comparison.target,
        "peak_mb": peaks,
        "memory_ratio": round(peaks[0] / peaks[1], 3),
        "memory_target": comparison.memory_target,
        "versions": versions,
    }
