"""Whoever holds a copy of the policy learns of a step from torch's counters of in-place changes."""

import pytest
import torch
from torch import nn

from unirl.optim.step import make_update


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", ["adam", "adamw", "sgd", "rmsprop"])
def test_a_step_counts_as_a_change_of_every_parameter(name, dtype):
    weights = [nn.Parameter(torch.ones(3, dtype=dtype)) for _ in range(2)]
    update = make_update({"name": name, "lr": 0.1}, {"policy": weights})

    def closure(losses):
        loss = sum((weight.float() ** 2).sum() for weight in weights)
        loss.backward()
        return {"policy": loss.detach()}

    for _ in range(2):
        before = [weight._version for weight in weights]
        update(closure)
        assert all((weight != 1).all() for weight in weights)
        assert all(weight._version > counted for weight, counted in zip(weights, before, strict=True))
