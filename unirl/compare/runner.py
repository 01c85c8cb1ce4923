"""Trains cells in processes of their own, several at a time.

A comparison holds a lock on its folder, and every cell inherits it: as long as one of them lives, no second comparison
can begin there. A cell whose comparison is killed is interrupted by the kernel, saves a checkpoint and ends.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

from unirl.compare.plan import Cell
from unirl.compare.results import FAILURE, Failure
from unirl.config import compose
from unirl.errors import UserError
from unirl.run import read_config
from unirl.trainer.lock import folder_lock
from unirl.trainer.progress import read_progress

POLL_SECONDS = 0.1
GRACE_SECONDS = 120.0  # for an interrupted cell to end its iteration and save; a second interruption does not wait
LOG_LINES = 30
LOG, PROGRESS = "log.txt", "progress.json"
ONE_THREAD = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMEXPR_NUM_THREADS")


class Watcher(Protocol):
    """Whoever shows how the cells are doing."""

    def started(self, cell: Cell) -> None:
        """A cell's process was started."""
        ...

    def moved(self, cell: Cell, progress: dict[str, Any]) -> None:
        """The latest state of a running cell (see `FileProgress`; empty at first)."""
        ...

    def finished(self, cell: Cell, seconds: float) -> None:
        """A cell reached its end."""
        ...

    def failed(self, cell: Cell, failure: Failure) -> None:
        """A cell's process ended without a result."""
        ...

    def stopping(self, cells: int) -> None:
        """The comparison was interrupted: so many cells are ending their iteration and saving."""
        ...


@dataclass(frozen=True)
class _Worker:
    cell: Cell
    process: subprocess.Popen[bytes]
    started: float


def split_finished(cells: Sequence[Cell]) -> tuple[list[Cell], list[Cell]]:
    """(cells to train, cells that an earlier comparison finished with the same configuration).

    Raises `UserError` where a folder holds a run with another configuration: it would be compared under a wrong name.
    """
    todo: list[Cell] = []
    done: list[Cell] = []
    for cell in cells:
        if (cell.folder / "metrics.jsonl").exists() and read_config(cell.folder) != compose(cell.overrides):
            raise UserError(
                f"{cell.folder} holds a run with another configuration; choose another out=DIR or delete it"
            )
        (done if (cell.folder / "result.json").exists() else todo).append(cell)
    return todo, done


def training_command(cell: Cell) -> list[str]:
    """Train the cell, or continue it where an earlier comparison was stopped."""
    begun = (cell.folder / "metrics.jsonl").exists()
    task = ["resume", str(cell.folder)] if begun else ["train", *cell.overrides]
    return worker_command("unirl.cli", *task, "--progress-file", str(cell.folder / PROGRESS))


def worker_command(module: str, *arguments: str) -> list[str]:
    """Run a module in a process that does not outlive this one (see `unirl.compare.worker`)."""
    return [sys.executable, "-m", "unirl.compare.worker", str(os.getpid()), module, *arguments]


def run_cells(
    cells: Sequence[Cell],
    jobs: int,
    watcher: Watcher,
    command: Callable[[Cell], list[str]] = training_command,
    lock: int | None = None,
) -> list[Failure]:
    """Train every cell, `jobs` at a time; a failing one is reported and the rest goes on.

    `lock` is the descriptor of `locked`, which the cells keep open.

    An interruption stops the running ones, which save a checkpoint, and is raised.
    """
    waiting, running, failures = deque(cells), list[_Worker](), list[Failure]()
    with _termination_interrupts():
        try:
            while waiting or running:
                while waiting and len(running) < jobs:
                    running.append(_start(waiting.popleft(), command, lock))
                    watcher.started(running[-1].cell)
                time.sleep(POLL_SECONDS)
                for worker in list(running):
                    watcher.moved(worker.cell, read_progress(worker.cell.folder / PROGRESS))
                    if worker.process.poll() is not None:
                        running.remove(worker)
                        _report(worker, watcher, failures)
        finally:
            _stop(running, watcher)
    return failures


def locked(out: Path) -> AbstractContextManager[int]:
    """Hold the folder of a comparison; raises `UserError` while another comparison, or a cell of one, works in it."""
    return folder_lock(
        out,
        "another comparison ({holder}), or a cell that it left, is at work in {folder}; wait for it, or choose another "
        "out=DIR",
    )


def _start(cell: Cell, command: Callable[[Cell], list[str]], lock: int | None) -> _Worker:
    cell.folder.mkdir(parents=True, exist_ok=True)
    for name in (PROGRESS, FAILURE):
        (cell.folder / name).unlink(missing_ok=True)
    with (cell.folder / LOG).open("wb") as log:
        process = subprocess.Popen(
            command(cell),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | dict.fromkeys(ONE_THREAD, "1") | {"TOKENIZERS_PARALLELISM": "false"},
            start_new_session=True,  # Ctrl-C reaches the cells once, from `_stop`, not also from the terminal
            pass_fds=() if lock is None else (lock,),
        )
    return _Worker(cell, process, time.monotonic())


def _report(worker: _Worker, watcher: Watcher, failures: list[Failure]) -> None:
    cell, code = worker.cell, worker.process.returncode
    (cell.folder / PROGRESS).unlink(missing_ok=True)
    if code == 0 and (cell.folder / "result.json").exists():
        watcher.finished(cell, time.monotonic() - worker.started)
        return
    end = f"killed by {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    end += "" if code else ", but no result"
    log = f"{tail(cell.folder / LOG)}\n({end})".lstrip()
    failure = Failure(cell.method, cell.domain, cell.task, cell.seed, log, str(cell.folder / LOG))
    (cell.folder / FAILURE).write_text(json.dumps(asdict(failure)) + "\n")
    failures.append(failure)
    watcher.failed(cell, failure)


def tail(path: Path) -> str:
    """The last lines of a log."""
    return "\n".join(path.read_text(errors="replace").splitlines()[-LOG_LINES:]).strip()


def _stop(workers: Sequence[_Worker], watcher: Watcher) -> None:
    """Interrupt what still runs, so that it saves a checkpoint; kill what does not end in time."""
    if not workers:
        return
    watcher.stopping(len(workers))
    for worker in workers:
        worker.process.send_signal(signal.SIGINT)
    deadline = time.monotonic() + GRACE_SECONDS
    try:
        for worker in workers:
            worker.process.wait(max(0.0, deadline - time.monotonic()))
    except subprocess.TimeoutExpired:
        pass  # whoever is late is killed below, as after a second interruption
    finally:
        for worker in workers:
            worker.process.kill()  # nothing happens to one that has ended
            worker.process.wait()


@contextmanager
def _termination_interrupts() -> Iterator[None]:
    """Treat SIGTERM and a closed terminal like Ctrl-C, so that a stopped comparison leaves no process behind."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    numbers = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    try:
        before = {number: signal.signal(number, interrupt) for number in numbers}
    except ValueError:  # not in the main thread: signals are our caller's business
        yield
        return
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
