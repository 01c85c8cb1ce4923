"""A nested state as two files: tensors in safetensors, everything else in JSON. Nothing is ever unpickled."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from unirl.errors import UserError

TENSORS, TREE = "tensors.safetensors", "state.json"


def save_state(state: Mapping[str, Any], folder: Path) -> None:
    """Write `state` (dicts, lists, tensors, numpy arrays, JSON scalars) into an existing folder and sync it to disk."""
    tensors: dict[str, Tensor] = {}
    tree = _split(state, "", tensors)
    save_file(tensors, folder / TENSORS)
    with (folder / TREE).open("w") as file:
        json.dump(tree, file)
        file.flush()
        os.fsync(file.fileno())
    with (folder / TENSORS).open("rb") as file:
        os.fsync(file.fileno())


def load_state(folder: Path) -> Any:
    """The state that `save_state` wrote; raises `UserError` where a file is missing or broken."""
    try:
        tree = json.loads((folder / TREE).read_text())
        tensors = load_file(folder / TENSORS)
        return _join(tree, tensors)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"checkpoint {folder} is missing or broken ({type(error).__name__}: {error})") from error
    except Exception as error:
        if type(error).__name__ == "SafetensorError":
            raise UserError(f"checkpoint {folder} is broken ({error})") from error
        raise


def _split(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[path] = value.detach().cpu().contiguous().clone()
        return {"$tensor": path}
    if isinstance(value, np.ndarray):
        tensors[path] = torch.from_numpy(np.ascontiguousarray(value)).clone()
        return {"$array": path}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        if all(isinstance(key, str) and not key.startswith("$") for key in value):
            return {key: _split(leaf, f"{path}/{key}", tensors) for key, leaf in value.items()}
        pairs = [[key, _split(leaf, f"{path}/{key}", tensors)] for key, leaf in value.items()]
        return {"$items": pairs}
    if isinstance(value, tuple):
        return {"$tuple": [_split(leaf, f"{path}/{i}", tensors) for i, leaf in enumerate(value)]}
    if isinstance(value, list):
        return [_split(leaf, f"{path}/{i}", tensors) for i, leaf in enumerate(value)]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"state at '{path}' is a {type(value).__name__}: only tensors, arrays and JSON values are saved")


def _join(tree: Any, tensors: Mapping[str, Tensor]) -> Any:
    if isinstance(tree, list):
        return [_join(leaf, tensors) for leaf in tree]
    if not isinstance(tree, dict):
        return tree
    if "$tensor" in tree:
        return tensors[tree["$tensor"]]
    if "$array" in tree:
        return tensors[tree["$array"]].numpy()
    if "$tuple" in tree:
        return tuple(_join(leaf, tensors) for leaf in tree["$tuple"])
    if "$items" in tree:
        return {key: _join(leaf, tensors) for key, leaf in tree["$items"]}
    return {key: _join(leaf, tensors) for key, leaf in tree.items()}
