"""Regression losses of critics: what is paid for an error u = target - prediction.

A regression is called `regression(prediction, target, batch)` and gives a loss of the prediction's shape ([N, T] or
[heads, N, T]); the target is a constant. Critics take one by name, with its hyper-parameters beside their own:
`{name: v, loss: expectile, expectile: 0.7}`.
"""

import inspect
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

from unirl.batch import Batch
from unirl.critics.divergences import DIVERGENCES
from unirl.errors import UserError, unknown
from unirl.registry import make, part_class, register

CLIP_VARIANTS = ("max", "plain")
CHI_SQUARE = DIVERGENCES["chi_square"]
CHI_SQUARE_VARIANTS = ("paper", "released")


class Regression(Protocol):
    """A loss for every prediction; `reads` names the fields that it needs beside the prediction and its target."""

    reads: tuple[str, ...]

    def __call__(self, prediction: Tensor, target: Tensor, batch: Batch) -> Tensor: ...


def make_regression(critic: str, own: Collection[str], name: str, options: Mapping[str, Any]) -> Regression:
    """The regression `name` of a critic, whose `own` hyper-parameters are listed where an option is unknown."""
    known = inspect.signature(part_class("regression", name)).parameters
    for option in options:
        if option not in known:
            raise unknown(
                f"hyper-parameter of critic '{critic}' with loss '{name}'", option, [*own, *known], see="unirl parts"
            )
    made: Regression = make("regression", name, **options)
    return made


@register("regression", "mse")
@dataclass(frozen=True)
class SquaredError:
    """u^2: the prediction becomes the mean of its targets."""

    reads = ()

    def __call__(self, prediction: Tensor, target: Tensor, batch: Batch) -> Tensor:
        """The squared error."""
        return (target - prediction).square()


@register("regression", "huber")
@dataclass(frozen=True)
class Huber:
    r"""Squared error that grows linearly beyond `delta`: u^2 for |u| <= delta, delta (2 |u| - delta) beyond.

    Twice the textbook's form, so that a critic's `half` means the same for it as for the squared error. `delta`: 1 is
    Huber's (1964); f-DVL's and XQL's code takes 20.
    """

    delta: float = 1.0
    reads = ()

    def __post_init__(self) -> None:
        if self.delta <= 0:
            raise UserError(f"regression 'huber': delta is {self.delta}; it must be positive")

    def __call__(self, prediction: Tensor, target: Tensor, batch: Batch) -> Tensor:
        """The loss per prediction."""
        error = target - prediction
        size = error.abs()
        return torch.where(size <= self.delta, error.square(), self.delta * (2 * size - self.delta))


@register("regression", "clipped")
@dataclass(frozen=True)
class Clipped:
    r"""Squared error of a state value that may move only a little from its value before the update.

    .. math:: V_c = V_{old} + \mathrm{clamp}(V - V_{old}, \pm\text{clip})

    `clip_variant` "max" takes max(u^2, (y - V_c)^2) (OpenAI Baselines' PPO, CleanRL), "plain" takes (y - V_c)^2
    alone (Stable-Baselines3). With `anneal` the range is clip (1 - progress), as in on-policy MDPO's code. Reads
    `value` [N, T] and, with `anneal`, `progress`. Raises `UserError` for an unknown variant.
    """

    clip: float = 0.2
    clip_variant: str = "max"
    anneal: bool = False

    def __post_init__(self) -> None:
        if self.clip_variant not in CLIP_VARIANTS:
            raise unknown("clip_variant of regression 'clipped'", str(self.clip_variant), CLIP_VARIANTS)

    @property
    def reads(self) -> tuple[str, ...]:
        """Fields this needs."""
        return ("value", "progress") if self.anneal else ("value",)

    def __call__(self, prediction: Tensor, target: Tensor, batch: Batch) -> Tensor:
        """The loss per prediction, [N, T]."""
        old = batch.value.detach()
        reach = self.clip * (1 - float(batch.progress)) if self.anneal else self.clip
        near = old + (prediction - old).clamp(-reach, reach)
        clipped = (target - near).square()
        return torch.maximum((target - prediction).square(), clipped) if self.clip_variant == "max" else clipped


@register("regression", "expectile")
@dataclass(frozen=True)
class Expectile:
    """|expectile - 1[u < 0]| u^2: above 1/2 it leans to the largest targets (IQL: .7; Kostrikov et al. 2022).

    Raises `UserError` unless `expectile` lies strictly between 0 and 1.
    """

    expectile: float = 0.7
    reads = ()

    def __post_init__(self) -> None:
        if not 0 < self.expectile < 1:
            raise UserError(f"regression 'expectile': expectile is {self.expectile}; it lies strictly between 0 and 1")

    def __call__(self, prediction: Tensor, target: Tensor, batch: Batch) -> Tensor:
        """The loss per prediction."""
        error = target - prediction
        return (self.expectile - (error < 0).to(error.dtype)).abs() * error.square()


@register("regression", "chi_square")
@dataclass(frozen=True)
class ChiSquare:
    r"""f-DVL's implicit maximum under Pearson's chi-square divergence.

    .. math:: \ell = \lambda \max(f^*(u), 0) - (1 - \lambda) u, \qquad f^*(u) = u + u^2/4 \text{ for } u > -2

    u = y - V. The conjugate counts where it is positive, which is u > 0. At the minimum
    lambda E[(1 + u/2) 1(u > 0)] = 1 - lambda: a larger `lam` moves the prediction towards the largest target.
    `variant` "released" is the authors' code, max(u + u^2/4, 0) without that mask: it is positive again for u < -4
    and pulls predictions down there, which with lambda = 1 is their only way down.

    Raises `UserError` unless 0 < lam <= 1 and for an unknown variant. Source: Dual RL [123] (Sikchi et al. 2024).
    """

    lam: float = 0.6
    variant: str = "paper"
    reads = ()

    def __post_init__(self) -> None:
        if not 0 < self.lam <= 1:
            raise UserError(f"regression 'chi_square': lam is {self.lam}; it lies above 0 and is at most 1")
        if self.variant not in CHI_SQUARE_VARIANTS:
            raise unknown("variant of regression 'chi_square'", str(self.variant), CHI_SQUARE_VARIANTS)

    def __call__(self, prediction: Tensor, target: Tensor, batch: Batch) -> Tensor:
        """The loss per prediction."""
        error = target - prediction
        released = self.variant == "released"
        conjugate = error + error.square() / 4 if released else CHI_SQUARE.conjugate(error)
        return self.lam * conjugate.clamp(min=0) - (1 - self.lam) * error


@register("regression", "total_variation")
@dataclass(frozen=True)
class TotalVariation:
    r"""f-DVL's implicit maximum under the total variation: quantile regression.

    .. math:: \ell = \lambda \max(u, 0) - (1 - \lambda) u = \lambda\, [(\tau - 1[u < 0]) u], \quad
        \tau = (2 \lambda - 1) / \lambda

    The prediction becomes the tau-quantile of its targets: `lam` .6 is the third, .8 the upper quarter's edge.
    Raises `UserError` unless 1/2 < lam < 1: below, nothing holds the prediction from below. Source: Dual RL [123]
    (Sikchi et al. 2024).
    """

    lam: float = 0.8
    reads = ()

    def __post_init__(self) -> None:
        if not 0.5 < self.lam < 1:
            raise UserError(f"regression 'total_variation': lam is {self.lam}; it lies strictly between 1/2 and 1")

    def __call__(self, prediction: Tensor, target: Tensor, batch: Batch) -> Tensor:
        """The loss per prediction."""
        error = target - prediction
        return self.lam * error.clamp(min=0) - (1 - self.lam) * error


@register("regression", "gumbel")
@dataclass(frozen=True)
class Gumbel:
    r"""Gumbel regression: the prediction becomes the soft maximum T log E[e^{y / T}] of its targets.

    .. math:: z = \min(u / T, \text{clip}), \qquad \ell = e^{z - m} - z e^{-m} - e^{-m}

    `temperature`: T; the smaller, the nearer to the maximum. `clip`: an error beyond it has no gradient (7 in XQL's
    code, 5 in f-DVL's; null: none). `rescale`: m = max(max z, -1) over the masked decisions of the (micro-)batch, a
    constant, keeps the exponentials finite; without it m = 0. Raises `UserError` unless temperature > 0. Source: XQL
    (Garg et al. 2023); the reverse-KL case of Dual RL [123].
    """

    temperature: float = 1.0
    clip: float | None = 7.0
    rescale: bool = True
    reads = ()

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise UserError(f"regression 'gumbel': temperature is {self.temperature}; it must be positive")

    def __call__(self, prediction: Tensor, target: Tensor, batch: Batch) -> Tensor:
        """The loss per prediction."""
        z = ((target - prediction) / self.temperature).masked_fill(~batch.mask, 0.0)  # what does not count may overflow
        if self.clip is not None:
            z = z.clamp(max=self.clip)
        if not self.rescale:
            return z.exp() - z - 1
        largest = z.detach().masked_fill(~batch.mask, -1.0).max().clamp(min=-1.0)
        return (z - largest).exp() - z * (-largest).exp() - (-largest).exp()
