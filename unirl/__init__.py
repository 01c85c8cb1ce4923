"""unirl: one toolkit that trains robots and language models with the same algorithms."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from unirl.batch import Batch
    from unirl.registry import make, names, register

__all__ = ["Batch", "make", "names", "register"]
__version__ = "0.1.0"

_HOME = {"Batch": "unirl.batch", "make": "unirl.registry", "names": "unirl.registry", "register": "unirl.registry"}


def __getattr__(name: str) -> Any:
    """Import on first use: torch takes seconds, and `unirl --help` does not need it."""
    if name not in _HOME:
        raise AttributeError(f"module 'unirl' has no attribute '{name}'")
    import importlib

    return getattr(importlib.import_module(_HOME[name]), name)
