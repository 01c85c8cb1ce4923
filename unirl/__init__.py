"""unirl: one toolkit that trains robots and language models with the same algorithms."""

from unirl.batch import Batch
from unirl.registry import make, names, register

__all__ = ["Batch", "make", "names", "register"]
__version__ = "0.1.0"
