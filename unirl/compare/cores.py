"""How many processors this process may use: the machine's, less what affinity and control groups take away."""

import math
import os
from pathlib import Path

CGROUPS = Path("/sys/fs/cgroup")


def usable_cores(cgroups: Path = CGROUPS, own: Path = Path("/proc/self/cgroup")) -> int:
    """At least 1. A quota of 1.5 processors counts as 1: two busy processes would slow each other down."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.floor(min([available, *_quotas(cgroups, own)])))


def _quotas(cgroups: Path, own: Path) -> list[float]:
    """Processors allowed by each control group that this process is in: version 2 from its own up, else version 1."""
    lines = _read(own).splitlines()
    path = next((line.removeprefix("0::").strip("/") for line in lines if line.startswith("0::")), "")
    folder = cgroups / path
    texts = [_read(place / "cpu.max").split() for place in (folder, *folder.parents) if place.is_relative_to(cgroups)]
    texts.append([_read(cgroups / "cpu" / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")])
    pairs = [text for text in texts if len(text) == 2 and text[0].isdigit() and text[1].isdigit()]
    return [int(quota) / int(period) for quota, period in pairs if int(period) > 0]


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:  # another kind of system, or not ours to read
        return ""
