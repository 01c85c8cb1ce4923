"""What the processes of a sandbox use together, read from a folder of process information."""

import os
import signal
import time
from collections import defaultdict


class Processes:
    """The processes below this one: all of a namespace's (`whole`), or all descendants."""

    def __init__(self, folder: int, whole: bool) -> None:
        self._folder, self._whole, self._own = folder, whole, os.getpid()
        self.count = self.bytes = self.peak_bytes = 0

    def look(self) -> None:
        """Count them, and the memory that is theirs alone or shared among them; files that they map are not."""
        sizes = [self._size(process) for process in self._all()]
        self.count, self.bytes = len(sizes), sum(sizes)
        self.peak_bytes = max(self.peak_bytes, self.bytes)

    def kill_all(self) -> None:
        """Kill until there is none; in a namespace the kernel does so when this process ends."""
        until = time.monotonic() + 5.0
        while not self._whole and time.monotonic() < until:
            found = self._all()
            for process in found:
                self._kill(process)
            while self._reaped():
                pass
            if not found:
                return

    def _all(self) -> list[int]:
        known = [int(name) for name in os.listdir(self._folder) if name.isdigit()]
        if self._whole:
            return [process for process in known if process != self._own]
        children = defaultdict(list)
        for process in known:
            children[self._parent(process)].append(process)
        found, waiting = [], [self._own]
        while waiting:
            more = children[waiting.pop()]
            found += more
            waiting += more
        return found

    def _parent(self, process: int) -> int:
        text = self._read(f"{process}/stat")
        return int(text.rpartition(")")[2].split()[1]) if text else -1

    def _size(self, process: int) -> int:
        kilobytes = 0
        for line in self._read(f"{process}/status").splitlines():
            if line.startswith(("RssAnon:", "RssShmem:")):
                kilobytes += int(line.split()[1])
        return kilobytes << 10

    def _read(self, name: str) -> str:
        try:
            file = os.open(name, os.O_RDONLY, dir_fd=self._folder)
        except OSError:  # it has ended
            return ""
        try:
            return os.read(file, 1 << 14).decode(errors="replace")
        except OSError:
            return ""
        finally:
            os.close(file)

    def _kill(self, process: int) -> None:
        try:
            os.kill(process, signal.SIGKILL)
        except ProcessLookupError:
            return

    def _reaped(self) -> bool:
        try:
            return os.waitpid(-1, os.WNOHANG)[0] != 0
        except ChildProcessError:
            return False
