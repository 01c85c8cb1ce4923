"""What this process may use of the processors: the machine's, less what affinity and control groups take away."""

import math
import os
from pathlib import Path

import torch

CGROUPS, OWN = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")


def available_processors() -> int:
    """Processors that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def allowed_processors(cgroups: Path = CGROUPS, own: Path = OWN) -> float | None:
    """How many processors' worth of time a container may use; None where nothing is said.

    Control groups of version 2, this process's own and those above it, of which the smallest quota counts; where they
    say nothing, version 1.
    """
    lines = _read(own).splitlines()
    path = next((line.removeprefix("0::").strip("/") for line in lines if line.startswith("0::")), "")
    folder = cgroups / path
    groups = [_read(place / "cpu.max").split() for place in (folder, *folder.parents) if place.is_relative_to(cgroups)]
    older = [_read(cgroups / "cpu" / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
    quotas = [share for share in map(_share, groups) if share is not None]
    return min(quotas) if quotas else _share(older)


def usable_cores(cgroups: Path = CGROUPS, own: Path = OWN) -> int:
    """At least 1. A quota of 1.5 processors counts as 1: two busy processes would slow each other down."""
    allowed = allowed_processors(cgroups, own)
    return max(1, math.floor(min(available_processors(), math.inf if allowed is None else allowed)))


def native_bfloat16() -> bool | None:
    """Whether the processor multiplies bfloat16 matrices itself (otherwise slower than float32); None: unknown."""
    if not hasattr(torch.cpu, "get_capabilities"):
        return None
    return any(name.endswith("bf16") and bool(has) for name, has in torch.cpu.get_capabilities().items())


def _share(quota_and_period: list[str]) -> float | None:
    if len(quota_and_period) != 2 or not all(text.isdigit() for text in quota_and_period):
        return None
    quota, period = map(int, quota_and_period)
    return quota / period if period > 0 else None


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # another kind of system, or not ours to read
        return ""
