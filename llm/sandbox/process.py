"""One sandboxed process, as seen by the process that wants something of it."""

import os
import selectors
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

_HERE = Path(__file__).parent
_ENTRY = """
import sys
sys.path.insert(0, {folder!r})
from guest import supervisor
del sys.path[0]
sys.dont_write_bytecode = True
sys.exit(supervisor.main(*map(int, sys.argv[1:])))
"""
_ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "LANG": "C.UTF-8",
    "MALLOC_ARENA_MAX": "1",  # glibc reserves address space per thread, which is limited
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}
_SET_UP = 30.0  # seconds that the sandbox itself may take, on a busy machine
_GRACE = 2.0
_LONGEST = 1 << 16  # bytes of a verdict or a status


@dataclass
class Spoken:
    """What a sandbox has written, by channel: `stdout`, `stderr`, `verdict`, `status`."""

    data: dict[str, bytearray] = field(default_factory=dict)
    overflow: str | None = None
    timeout: bool = False

    def text(self, channel: str) -> str:
        """What was written to a channel."""
        return self.data[channel].decode("utf-8", errors="replace")


def talk(given: Mapping[str, bytes], folder: str, output_bytes: int, seconds: float) -> Spoken:
    """Start a sandbox, hand it `stdin`, `job` and `tests`, and gather what it says until all of it is gone."""
    ours, theirs = {}, {}
    for channel in ("job", "tests"):
        theirs[channel], ours[channel] = os.pipe()
    for channel in ("verdict", "status"):
        ours[channel], theirs[channel] = os.pipe()
    try:
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-X", "utf8", "-c", _ENTRY.format(folder=str(_HERE))]
            + [str(theirs[channel]) for channel in ("job", "tests", "verdict", "status")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            pass_fds=tuple(theirs.values()),
            env={**_ENVIRONMENT, "HOME": folder, "TMPDIR": folder},
            start_new_session=True,
        )
    except OSError:
        for file in ours.values():
            os.close(file)
        raise
    finally:
        for file in theirs.values():
            os.close(file)
    assert process.stdin is not None and process.stdout is not None and process.stderr is not None
    ours |= {name: os.dup(getattr(process, name).fileno()) for name in ("stdin", "stdout", "stderr")}
    for stream in (process.stdin, process.stdout, process.stderr):
        stream.close()
    return _Conversation(process, ours, given, output_bytes, time.monotonic() + seconds + _SET_UP).hold()


class _Conversation:
    """Reads and writes whatever is ready, so that neither side waits for the other."""

    def __init__(
        self,
        process: "subprocess.Popen[bytes]",
        files: Mapping[str, int],
        given: Mapping[str, bytes],
        output_bytes: int,
        deadline: float,
    ) -> None:
        self._process, self._deadline = process, deadline
        self._stopped_at: float | None = None
        self._spoken = Spoken({name: bytearray() for name in files if name not in given})
        self._left = {name: memoryview(data) for name, data in given.items()}
        self._limits = {"stdout": output_bytes, "stderr": output_bytes, "verdict": _LONGEST, "status": _LONGEST}
        self._selector = selectors.DefaultSelector()
        for name, file in files.items():
            os.set_blocking(file, False)
            event = selectors.EVENT_WRITE if name in given else selectors.EVENT_READ
            self._selector.register(file, event, name)

    def hold(self) -> Spoken:
        """Go on until the process has ended and everything is read."""
        try:
            while self._reading():
                ended = self._process.poll() is not None
                ready = self._selector.select(0.0 if ended else 0.1)
                for key, event in ready:
                    (self._write if event == selectors.EVENT_WRITE else self._read)(key)
                if ended and not any(event == selectors.EVENT_READ for _, event in ready):
                    break
                self._watch_the_clock()
            self._finish()
        finally:
            self._process.kill()
            self._process.wait()
            for key in list(self._selector.get_map().values()):
                self._close(key)
            self._selector.close()
        return self._spoken

    def _reading(self) -> bool:
        return any(key.events == selectors.EVENT_READ for key in self._selector.get_map().values())

    def _read(self, key: selectors.SelectorKey) -> None:
        data = os.read(key.fd, 1 << 16)
        if not data:
            self._close(key)
            return
        kept = self._spoken.data[key.data]
        room = self._limits[key.data] - len(kept)
        kept += data[:room]
        if len(data) > room and self._spoken.overflow is None:
            self._spoken.overflow = key.data
            self._stop()

    def _write(self, key: selectors.SelectorKey) -> None:
        left = self._left[key.data]
        try:
            left = self._left[key.data] = left[os.write(key.fd, left[: 1 << 16]) :] if left else left
        except BrokenPipeError:  # it does not want to know
            left = left[:0]
        if not left:
            self._close(key)

    def _close(self, key: selectors.SelectorKey) -> None:
        self._selector.unregister(key.fileobj)
        os.close(key.fd)

    def _stop(self) -> None:
        """Ask the outer process to end everything; it returns when all is gone."""
        if self._stopped_at is None:
            self._stopped_at = time.monotonic()
            self._process.terminate()

    def _watch_the_clock(self) -> None:
        now = time.monotonic()
        if now > self._deadline and self._stopped_at is None:
            self._spoken.timeout = True
            self._stop()
        if self._stopped_at is not None and now > self._stopped_at + _GRACE:
            self._process.kill()

    def _finish(self) -> None:
        try:
            self._process.wait(max(self._deadline - time.monotonic(), _GRACE))
        except subprocess.TimeoutExpired:
            self._spoken.timeout = True
