"""A nested state as two files: tensors in safetensors, everything else in JSON. Nothing is ever unpickled."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from unirl.errors import UserError
from unirl.trainer.files import sync

TENSORS, TREE = "tensors.safetensors", "state.json"


def save_state(state: Mapping[str, Any], folder: Path) -> None:
    """Write `state` (dicts, lists, tensors, numpy arrays, JSON scalars) into an existing folder and sync it to disk.

    Tensors are written from where they lie: a large replay buffer is not copied. Raises `OSError` where the disk is
    full or the folder cannot be written, `TypeError` for anything that would need pickling.
    """
    tensors: dict[str, Tensor] = {}
    tree = _split(state, "", tensors)
    _keep_apart(tensors)
    try:
        save_file(tensors, folder / TENSORS)
    except SafetensorError as error:
        code = re.search(r"os error (\d+)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(folder / TENSORS)) from error
    (folder / TREE).write_text(json.dumps(tree))
    sync(folder / TENSORS)
    sync(folder / TREE)


def load_state(folder: Path) -> Any:
    """The state that `save_state` wrote; raises `UserError` where a file is missing or broken."""
    try:
        tree = json.loads((folder / TREE).read_text())
        tensors = load_file(folder / TENSORS)
        return _join(tree, tensors)
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        what = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"checkpoint {folder} is missing or broken ({type(error).__name__}: {what})") from error


def _keep_apart(tensors: dict[str, Tensor]) -> None:
    """Copy what shares its memory with another tensor: safetensors refuses to write the same bytes twice."""
    seen: set[int] = set()
    for path, tensor in tensors.items():
        storage = tensor.untyped_storage().data_ptr()
        if storage in seen:
            tensors[path] = tensor.clone()
        seen.add(storage)


def _split(value: Any, path: str, tensors: dict[str, Tensor]) -> Any:
    if isinstance(value, Tensor):
        tensors[path] = value.detach().cpu().contiguous()
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
