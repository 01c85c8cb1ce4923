"""The worker's side of a paired benchmark: work in chunks, and wait between them. Standard library only.

A worker calls `Pacer.tick` after every step of its training loop. At the end of a chunk the pacer writes one JSON line
(units of work, seconds) to the real standard output and blocks until the harness (`pairs.py`) lets it go on, so the
library under test needs no changes and never runs while its rival is being timed.
"""

import json
import os
import resource
import sys
import time


class Pacer:
    """Splits a running training loop into timed chunks of `chunk` units."""

    def __init__(self, chunk: int) -> None:
        self._chunk = chunk
        self._channel = os.fdopen(os.dup(1), "w", buffering=1)
        os.dup2(2, 1)  # whatever the library prints must not disturb the protocol
        self._units = 0
        self._started = 0.0

    def ready(self, **versions: str) -> None:
        """Everything is built and warm: say so, and wait for the first chunk's start."""
        self._say(ready=True, versions={"python": sys.version.split()[0], **versions})
        self._wait()

    def tick(self, units: int = 1) -> None:
        """Count `units` of finished work; at the end of a chunk, report and wait."""
        self._units += units
        if self._units < self._chunk:
            return
        seconds = time.perf_counter() - self._started
        self._say(units=self._units, seconds=seconds, peak_mb=_peak_mb())
        self._wait()

    def _wait(self) -> None:
        if sys.stdin.readline().strip() != "go":
            sys.exit(0)
        self._units = 0
        self._started = time.perf_counter()

    def _say(self, **message: object) -> None:
        self._channel.write(json.dumps(message) + "\n")


def _peak_mb() -> float:
    """The process's largest resident set so far, in MB."""
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
