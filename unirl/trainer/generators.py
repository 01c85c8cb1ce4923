"""The process-wide random generators. Ours draw from generators of their own; a user's environment may not."""

import random
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch

from unirl.errors import UserError


def seed(number: int) -> None:
    """Seed Python's, numpy's and torch's generators; raises `UserError` for a number that torch cannot take."""
    if not 0 <= number < 2**63:
        raise UserError(f"seed is {number}; it must lie between 0 and 2^63 - 1")
    random.seed(number)
    np.random.seed(number % 2**32)
    torch.manual_seed(number)


def state() -> dict[str, Any]:
    """The state of Python's, numpy's and torch's generators, devices included."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else [],
    }


def restore(saved: Mapping[str, Any]) -> None:
    """Continue where `state` was taken; a device that is absent now is left out."""
    random.setstate(saved["python"])
    np.random.set_state(saved["numpy"])
    torch.set_rng_state(saved["torch"])
    for device, generator in zip(range(torch.cuda.device_count()), saved["cuda"], strict=False):
        torch.cuda.set_rng_state(generator, device)
