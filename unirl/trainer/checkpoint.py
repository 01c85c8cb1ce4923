"""Checkpoints: written under a temporary name, synced, renamed; the newest complete one is the one to resume from."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unirl.errors import UserError
from unirl.trainer.statefile import load_state, save_state


def write_checkpoint(folder: Path, iteration: int, state: Mapping[str, Any], keep: int = 2) -> Path:
    """Write `checkpoints/step_<iteration>` atomically and remove all but the newest `keep`."""
    checkpoints = folder / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    final = checkpoints / f"step_{iteration:09d}"
    temporary = checkpoints / f".writing_{iteration:09d}"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        save_state(state, temporary)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(f"cannot write a checkpoint into {checkpoints}: {error.strerror or error}") from error
    shutil.rmtree(final, ignore_errors=True)
    temporary.rename(final)
    _sync_folder(checkpoints)
    for old in _complete(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return final


def read_checkpoint(folder: Path) -> Any | None:
    """The newest complete checkpoint's state, or None where there is none yet."""
    found = _complete(folder)
    return load_state(found[-1]) if found else None


def _complete(folder: Path) -> list[Path]:
    return sorted((folder / "checkpoints").glob("step_*"))


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
