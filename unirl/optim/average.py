"""Averages of weights over training."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn


class WeightAverage:
    """Exponential or uniform average of parameters over the steps it has seen, kept in float32 or better.

    decay d: avg <- d avg + (1 - d) theta, bias-free from the first step on (it starts at theta). decay 1: the uniform
    mean of all steps (Polyak & Juditsky 1992). Within `in_place` the parameters have their averages.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float) -> None:
        self._parameters = list(parameters)
        self._decay = decay
        self._steps = 0
        self.averages: list[Tensor] = [_precise(p).clone() for p in self._parameters]

    @torch.no_grad()
    def update(self) -> None:
        """Take the parameters as they are now into the average."""
        self._steps += 1
        uniform = 1.0 - 1.0 / self._steps
        keep = uniform if self._decay == 1.0 or self._steps == 1 else self._decay
        torch._foreach_lerp_(self.averages, [_precise(p) for p in self._parameters], 1.0 - keep)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Within this context the parameters are the averages; afterwards they are what they were."""
        held = [parameter.detach().clone() for parameter in self._parameters]
        self._set(self.averages)
        try:
            yield
        finally:
            self._set(held)

    @torch.no_grad()
    def _set(self, values: Iterable[Tensor]) -> None:
        for parameter, value in zip(self._parameters, values, strict=True):
            parameter.copy_(value)

    def state_dict(self) -> dict[str, Any]:
        """The averages and how many steps they hold."""
        return {"steps": self._steps, "averages": list(self.averages)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self._steps = int(state["steps"])
        for average, saved in zip(self.averages, state["averages"], strict=True):
            average.copy_(saved)


def _precise(parameter: nn.Parameter) -> Tensor:
    return parameter.detach().to(torch.promote_types(parameter.dtype, torch.float32))
