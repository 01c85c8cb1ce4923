"""What the machine has to offer: devices, processors, memory, disk."""

import os
import shutil
from pathlib import Path
from typing import Any

import torch

from unirl.processors import CGROUPS, allowed_processors, available_processors, native_bfloat16

VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "CUDA_VISIBLE_DEVICES", "MUJOCO_GL", "HF_HOME", "HF_HUB_OFFLINE")
FOLDERS = {"UNIRL_HOME": "~/.cache/unirl", "D4RL_DATASET_DIR": "~/.d4rl/datasets"}  # variable -> default
GIB = 2**30


def machine() -> dict[str, Any]:
    """All of it, as plain values."""
    return {
        "devices": devices(),
        "processors": os.cpu_count(),
        "usable_processors": available_processors(),
        "allowed_processors": allowed_processors(),
        "torch_threads": torch.get_num_threads(),
        "native_bfloat16": native_bfloat16(),
        "memory_gb": memory(),
        "free_disk_gb": {name: free_disk(folder) for name, folder in folders().items()},
        "environment": {name: os.environ[name] for name in (*VARIABLES, *FOLDERS) if name in os.environ},
    }


def devices() -> list[str]:
    """What torch can compute on."""
    found = ["cpu"]
    found += [f"cuda:{index} ({torch.cuda.get_device_name(index)})" for index in range(torch.cuda.device_count())]
    if torch.backends.mps.is_available():
        found.append("mps")
    return found


def memory(root: Path = CGROUPS) -> dict[str, float]:
    """Physical memory, the part of it that is free, and the container's limit where there is one, in GiB."""
    pages = {"total": "SC_PHYS_PAGES", "available": "SC_AVPHYS_PAGES"}
    known = {name: key for name, key in pages.items() if key in os.sysconf_names}
    found = {name: round(os.sysconf(key) * os.sysconf("SC_PAGE_SIZE") / GIB, 1) for name, key in known.items()}
    available = _meminfo("MemAvailable")
    if available is not None:  # counts what the kernel would give back; the number above does not
        found["available"] = available
    limit = _first_line(root / "memory.max") or _first_line(root / "memory" / "memory.limit_in_bytes")
    if limit and limit.isdigit() and int(limit) / GIB < found.get("total", float("inf")):
        found["limit"] = round(int(limit) / GIB, 1)
    return found


def folders() -> dict[str, Path]:
    """Where files go: runs, pre-trained tiny models, downloaded datasets."""
    found = {"out": Path("out")}
    for variable, default in FOLDERS.items():
        found[variable] = Path(os.environ.get(variable) or default).expanduser()
    return found


def free_disk(folder: Path) -> float:
    """GiB free where `folder` is, or would be made."""
    folder = folder.absolute()
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    return round(shutil.disk_usage(existing).free / GIB, 1)


def _meminfo(name: str) -> float | None:
    path = Path("/proc/meminfo")
    lines = path.read_text().splitlines() if path.exists() else []
    kib = next((line.split()[1] for line in lines if line.startswith(f"{name}:")), None)
    return None if kib is None else round(int(kib) * 1024 / GIB, 1)


def _first_line(path: Path) -> str | None:
    return path.read_text().partition("\n")[0].strip() if path.is_file() else None
