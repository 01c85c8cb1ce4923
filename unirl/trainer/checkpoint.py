"""Checkpoints: written under a temporary name, synced, renamed; the newest readable one is the one to resume from.

A folder `step_<iteration>` is complete from the moment it has that name to the moment it loses it: nothing is written
into it or deleted from it. What a kill leaves behind has a name that starts with a dot, and goes with the next writing.
"""

import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unirl.errors import RunWarning, UserError
from unirl.trainer.files import sync
from unirl.trainer.statefile import load_state, save_state

FOLDER = "checkpoints"


def write_checkpoint(folder: Path, iteration: int, state: Mapping[str, Any], keep: int = 2) -> Path:
    """Write `checkpoints/step_<iteration>` and remove all but the newest `keep`.

    Checkpoints of later iterations are removed too: the run went on from an older one because they are broken. Raises
    `UserError` where the state cannot be written; the earlier checkpoints are then untouched.
    """
    checkpoints = folder / FOLDER
    final = checkpoints / f"step_{iteration:09d}"
    temporary = checkpoints / f".writing_{iteration:09d}"
    try:
        checkpoints.mkdir(parents=True, exist_ok=True)
        for leftover in checkpoints.glob(".*"):
            shutil.rmtree(leftover)
        temporary.mkdir()
        save_state(state, temporary)
        sync(temporary)
        _remove(final)
        temporary.rename(final)
        sync(checkpoints)
        sync(folder)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise UserError(
            f"cannot write a checkpoint into {checkpoints}: {error.strerror or error}; earlier ones are as they were"
        ) from error
    older = [path for path in _complete(folder) if path.name < final.name]
    newer = [path for path in _complete(folder) if path.name > final.name]
    for path in (*older[: max(len(older) - keep + 1, 0)], *newer):
        _remove(path)
    return final


def read_checkpoint(folder: Path) -> Any | None:
    """The newest readable checkpoint's state, or None where there is none yet.

    A broken one is passed over with a warning. Raises `UserError` where all are broken.
    """
    found = _complete(folder)
    for path in reversed(found):
        try:
            return load_state(path)
        except UserError as error:
            if path == found[0]:
                raise UserError(f"{error}; it is the last one: delete {folder / FOLDER} to start again") from error
            warnings.warn(RunWarning(f"{error}; going on from the one before it"), stacklevel=2)
    return None


def _complete(folder: Path) -> list[Path]:
    return sorted((folder / FOLDER).glob("step_*"))


def _remove(path: Path) -> None:
    """Take the name away first, so that what a kill leaves of it is not taken for a checkpoint."""
    if path.exists():
        shutil.rmtree(path.rename(path.with_name(f".old_{path.name}")), ignore_errors=True)
