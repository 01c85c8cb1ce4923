"""An adapter as a folder in PEFT's layout, which is how vLLM takes it."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from peft import PeftConfig


class AdapterFolder:
    """The last two versions of an adapter below `folder`; the older one stays until an engine has read the newer."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._kept: list[Path] = []

    def write(self, config: "PeftConfig", state: Mapping[str, Tensor], number: int) -> Path:
        """Write one version and return its folder."""
        from safetensors.torch import save_file

        made = self._folder / f"adapter_{number}"
        config.save_pretrained(str(made))
        save_file({name: weight.contiguous() for name, weight in state.items()}, made / "adapter_model.safetensors")
        self._kept.append(made)
        if len(self._kept) > 2:
            shutil.rmtree(self._kept.pop(0), ignore_errors=True)
        return made
