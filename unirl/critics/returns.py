"""What critics predict, as distributions of returns: an ensemble, quantiles or a Gaussian.

Every one answers `mean`, `std`, `lower(beta)` and `sample`, [N, T] or [heads, N, T], so that pessimism, optimism and
targets are written once for all of them.
"""

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from unirl.batch import Batch


class Returns(Protocol):
    """A distribution of returns for every decision."""

    def mean(self) -> Tensor: ...

    def std(self) -> Tensor: ...

    def lower(self, beta: float) -> Tensor:
        """Mean - beta * std: pessimistic for beta > 0, optimistic for beta < 0."""
        ...

    def sample(self, generator: torch.Generator | None = None) -> Tensor: ...


@dataclass(frozen=True)
class Atoms:
    """Values of equal weight, [K, N, T]: the heads of an ensemble, or the quantiles of one or several heads."""

    values: Tensor

    def mean(self) -> Tensor:
        """Over atoms, [N, T]."""
        return self.values.mean(0)

    def std(self) -> Tensor:
        """Population standard deviation over atoms, [N, T]; 0 for a single one."""
        return self.values.std(0, correction=0)

    def lower(self, beta: float) -> Tensor:
        """Mean - beta std."""
        return self.mean() - beta * self.std()

    def sample(self, generator: torch.Generator | None = None) -> Tensor:
        """One atom for each decision, uniformly, [N, T]."""
        shape = (1, *self.values.shape[1:])
        which = torch.randint(len(self.values), shape, generator=generator, device=self.values.device)
        return self.values.gather(0, which)[0]

    def truncated(self, dropped: int) -> Tensor:
        """All atoms in ascending order but the `dropped` largest, [K - dropped, N, T]."""
        return self.values.sort(0).values[: len(self.values) - dropped]


@dataclass(frozen=True)
class GaussianReturns:
    """N(`center`, `spread`^2) for every decision (and head): [..., N, T] each."""

    center: Tensor
    spread: Tensor

    def mean(self) -> Tensor:
        """The center."""
        return self.center

    def std(self) -> Tensor:
        """The spread."""
        return self.spread

    def lower(self, beta: float) -> Tensor:
        """Mean - beta std."""
        return self.center - beta * self.spread

    def smallest(self) -> "GaussianReturns":
        """The head with the smallest center for every decision, with its spread, [N, T]."""
        if self.center.dim() == 2:
            return self
        which = self.center.argmin(0, keepdim=True)
        return GaussianReturns(self.center.gather(0, which)[0], self.spread.gather(0, which)[0])

    def mixture(self) -> "GaussianReturns":
        """Mean and spread of the equal mixture of heads, [N, T]: variance within heads plus variance between them."""
        if self.center.dim() == 2:
            return self
        if len(self.center) == 1:
            return GaussianReturns(self.center[0], self.spread[0])
        variance = self.spread.square().mean(0) + self.center.var(0, correction=0)
        return GaussianReturns(self.center.mean(0), variance.sqrt())

    def sample(self, generator: torch.Generator | None = None, limit: float | None = None) -> Tensor:
        """Center + noise * spread, the standard noise clipped to +-`limit`."""
        noise = torch.randn(self.center.shape, generator=generator, device=self.center.device, dtype=self.center.dtype)
        return self.center + (noise if limit is None else noise.clamp(-limit, limit)) * self.spread


def returns_of(batch: Batch, field: str) -> Returns:
    """The distribution behind `q`, `q_data`, `next_q` or `value_pred`: Gaussian where `..._std` was predicted."""
    values, spread = getattr(batch, field), batch.get(f"{field}_std")
    if spread is not None:
        return GaussianReturns(values, spread)
    return Atoms(values if values.dim() == 3 else values[None])
