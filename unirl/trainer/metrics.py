"""Running means of named numbers, and the file they are written to."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unirl.errors import UserError
from unirl.trainer.files import sync


class Means:
    """Means of named scalars since the last `take`; tensors stay as they are, so that nothing waits for a device."""

    def __init__(self) -> None:
        self._values: dict[str, list[Any]] = {}

    def add(self, values: Mapping[str, Tensor | float]) -> None:
        """Remember one value per name."""
        for name, value in values.items():
            self._values.setdefault(name, []).append(value.detach() if isinstance(value, Tensor) else value)

    def take(self) -> dict[str, float]:
        """The means, and start again."""
        means = {name: float(torch.stack([torch.as_tensor(v, dtype=torch.float64) for v in values]).mean())
                 for name, values in self._values.items()}  # fmt: skip
        self._values = {}
        return means

    def state_dict(self) -> dict[str, list[float]]:
        """Values not yet taken, so that a resumed run logs the same means."""
        return {name: [float(v) for v in values] for name, values in self._values.items()}

    def load_state_dict(self, state: Mapping[str, list[float]]) -> None:
        """Restore what `state_dict` gave."""
        self._values = {name: list(values) for name, values in state.items()}


class MetricsFile:
    """`metrics.jsonl`: one JSON object per line. On resume it is cut back to what the checkpoint knew of."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.lines = 0

    def write(self, record: Mapping[str, Any]) -> None:
        """Append one line; NaN and infinities are written as null, which JSON can hold."""
        clean = {k: (None if isinstance(v, float) and not math.isfinite(v) else v) for k, v in record.items()}
        try:
            with self._path.open("a") as file:
                file.write(json.dumps(clean) + "\n")
        except OSError as error:
            raise UserError(f"cannot write {self._path}: {error.strerror or error}") from error
        self.lines += 1

    def sync(self) -> None:
        """Have every line on the disk: a checkpoint is about to count them."""
        if self._path.exists():
            sync(self._path)

    def cut(self, lines: int) -> None:
        """Keep the first `lines` complete lines; a line that was torn by a kill is never among them."""
        content = self._path.read_bytes() if self._path.exists() else b""
        kept = content.splitlines(keepends=True)[:lines]
        if kept and not kept[-1].endswith(b"\n"):
            kept.pop()
        if (size := sum(map(len, kept))) < len(content):
            os.truncate(self._path, size)
        self.lines = len(kept)
