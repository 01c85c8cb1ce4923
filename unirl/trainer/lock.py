"""One process at a time trains into a run folder."""

import errno
import fcntl
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from unirl.errors import UserError

LOCK = ".lock"
UNSUPPORTED = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)  # some network file systems: two processes are not noticed


@contextmanager
def run_lock(folder: Path) -> Iterator[None]:
    """Hold the folder, which is made if there is none, within this context.

    The operating system releases the lock when its process ends, however it ends, so a lock cannot be left behind; the
    file `.lock` stays and says who was the last. Raises `UserError` where another process trains there, naming it, and
    where the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror or error}") from error
    try:
        _take(descriptor, folder)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {platform.node()} since {time.strftime('%F %T')}\n".encode())
        yield
    finally:
        os.close(descriptor)


def _take(descriptor: int, folder: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 500).decode(errors="replace").strip() or "another process"
        raise UserError(f"{folder} is being trained by {holder}; wait for it, or choose another out=DIR") from None
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
