"""One process at a time works in a folder: trains a run, or compares."""

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
TRAINED = "{folder} is being trained by {holder}; wait for it, or choose another out=DIR"
UNSUPPORTED = (errno.ENOSYS, errno.ENOTSUP, errno.ENOLCK)  # some network file systems: two processes are not noticed


@contextmanager
def folder_lock(folder: Path, busy: str = TRAINED) -> Iterator[int]:
    """Hold the folder, which is made if there is none, within this context; gives the lock's file descriptor.

    The operating system releases the lock when its process, and those that inherited the descriptor, have ended,
    however they end, so a lock cannot be left behind; the file `.lock` stays and says who was the last. Raises
    `UserError` where another process holds it (`busy` says so, with `{folder}` and `{holder}`), and where the folder
    cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise UserError(f"cannot write into {folder}: {error.strerror or error}") from error
    try:
        _take(descriptor, folder, busy)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, f"process {os.getpid()} on {platform.node()} since {time.strftime('%F %T')}\n".encode())
        yield descriptor
    finally:
        os.close(descriptor)


def _take(descriptor: int, folder: Path, busy: str) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(descriptor, 500).decode(errors="replace").strip() or "another process"
        raise UserError(busy.format(folder=folder, holder=holder)) from None
    except OSError as error:
        if error.errno not in UNSUPPORTED:
            raise
