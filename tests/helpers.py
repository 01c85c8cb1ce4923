"""Small batches for tests that are checked by hand."""

from typing import Any

import torch

from unirl import Batch


def rows(grad: str | None = None, **fields: Any) -> Batch:
    """A batch from nested lists; `mask` defaults to all ones of the first two-dimensional field's shape.

    `grad` names a field that becomes a leaf requiring gradients.
    """
    made: dict[str, Any] = {}
    for name, value in fields.items():
        if isinstance(value, dict):
            made[name] = {key: _tensor(leaf) for key, leaf in value.items()}
        else:
            made[name] = _tensor(value)
    if grad is not None:
        made[grad] = made[grad].requires_grad_()
    if "mask" not in made:
        shape = next(v.shape for v in made.values() if isinstance(v, torch.Tensor) and v.dim() == 2)
        made["mask"] = torch.ones(shape, dtype=torch.bool)
    return Batch(**made)


def _tensor(value: Any) -> Any:
    if isinstance(value, torch.Tensor) or not isinstance(value, list):
        return value
    made = torch.tensor(value, dtype=torch.float64)
    exact = torch.tensor(value)
    return made if exact.is_floating_point() else exact
