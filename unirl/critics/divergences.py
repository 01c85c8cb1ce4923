"""f-divergences between visitations: the conjugates that dual reinforcement learning regresses values with.

For a convex f with f(1) = 0 the positivity-constrained conjugate is

    f*(y) = sup_{x >= 0} x y - f(x) = w(y) y - f(w(y)),     w(y) = max(f'^{-1}(y), 0),

and w, its derivative, is the ratio of the optimal visitation to the data's. Source: Dual RL [123] (Sikchi et al. 2024).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from unirl.errors import unknown


@dataclass(frozen=True)
class Divergence:
    """`conjugate`: f*, `ratio`: w; both elementwise, differentiable almost everywhere."""

    conjugate: Callable[[Tensor], Tensor]
    ratio: Callable[[Tensor], Tensor]


def _pearson_ratio(y: Tensor) -> Tensor:
    return (y / 2 + 1).clamp(min=0)


def _pearson_conjugate(y: Tensor) -> Tensor:
    ratio = _pearson_ratio(y)
    return y * ratio - (ratio - 1).square()


def _kl_ratio(y: Tensor) -> Tensor:
    return (y - 1).exp()


DIVERGENCES: Mapping[str, Divergence] = {
    # f = (x - 1)^2: y + y^2 / 4 for y >= -2, -1 below
    "chi_square": Divergence(_pearson_conjugate, _pearson_ratio),
    # f = x log x: e^(y - 1)
    "kl": Divergence(_kl_ratio, _kl_ratio),
}


def divergence(name: str, of: str) -> Divergence:
    """The divergence called `name`; raises `UserError` with near matches, saying of what part it is."""
    if name not in DIVERGENCES:
        raise unknown(f"divergence of {of}", str(name), DIVERGENCES)
    return DIVERGENCES[name]
