"""Out of memory, out of disk: one line that says what to make smaller."""

import errno
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from unirl.errors import UserError

# Keys that decide how much memory a run takes, the largest consumers first; a run names those that it has.
MEMORY_KEYS = (
    "domain.token_budget",
    "domain.engine.rows",
    "method.source.capacity",
    "method.source.rows",
    "method.source.batch",
    "model.path",
    "model.hidden",
)
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
ALLOCATION = ("can't allocate memory", "not enough memory", "out of memory")


@contextmanager
def exhaustion_in_one_line(config: Mapping[str, Any], folder: Path) -> Iterator[None]:
    """Turn a failed allocation or a full disk within this context into a `UserError`; everything else passes."""
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not is_allocation(error):
            raise
        keys = ", ".join(f"{key}={value}" for key, value in _memory_settings(config))
        raise UserError(
            f"out of memory on {config.get('device', 'cpu')}; make smaller in {folder / 'config.yaml'}: {keys}; "
            f"then: unirl resume {folder}"
        ) from error
    except OSError as error:
        if error.errno not in FULL:
            raise
        place = error.filename or folder
        raise UserError(f"cannot write {place}: {error.strerror}; make room, then: unirl resume {folder}") from error


def is_allocation(error: Exception) -> bool:
    """Whether memory ran out. Torch raises a class of its own on a GPU; on a CPU it is the text that tells."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(words in str(error) for words in ALLOCATION)


def _memory_settings(config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key in MEMORY_KEYS:
        value: Any = config
        for name in key.split("."):
            value = value.get(name) if isinstance(value, Mapping) else None
        if value is not None:
            yield key, value
