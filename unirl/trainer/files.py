"""Files that are there whole or not at all, also after a crash."""

import os
from pathlib import Path

from unirl.errors import UserError


def write_whole(path: Path, text: str) -> None:
    """Write under a temporary name, sync, rename; raises `UserError` (and leaves `path` as it was) where it cannot."""
    half = path.with_name(f".{path.name}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        half.write_text(text)
        sync(half)
        half.replace(path)
        sync(path.parent)
    except OSError as error:
        half.unlink(missing_ok=True)
        raise UserError(f"cannot write {path}: {error.strerror or error}") from error


def sync(path: Path) -> None:
    """Have a file's content, or a folder's list of names, on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
