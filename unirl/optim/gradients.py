"""How the gradients of a step are found: transforms around the closure of named losses.

A gradient rule is called `rule(closure, names, parameters, lr)`: it leaves in `.grad` what the optimizer shall use
and returns the losses' values at the point where it started. Registered under kind `gradient`; a method chooses one
with `update: {gradient: {name: ...}}`. A rule that calls the closure just once, at the parameters that the step starts
from, says so by `evaluates_once = True`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unirl.errors import UserError
from unirl.optim.flat import flat, flat_gradient, restore, set_gradient, split
from unirl.registry import register

Closure = Callable[[Sequence[str]], dict[str, Tensor]]
"""`closure(names)`: evaluate those losses, leave their gradients in `.grad`, return their detached values."""


@register("gradient", "plain")
@dataclass(frozen=True)
class Plain:
    """The gradient of the sum of the losses, as it is."""

    evaluates_once = True

    def __call__(
        self, closure: Closure, names: Sequence[str], parameters: list[nn.Parameter], lr: float
    ) -> dict[str, Tensor]:
        """Evaluate once."""
        return closure(names)


@register("gradient", "extragradient")
@dataclass(frozen=True)
class Extragradient:
    r"""The gradient at a look-ahead point, applied where the step began (Korpelevich 1976).

    .. math:: \theta' = \theta - \eta \nabla L(\theta), \quad g = \nabla L(\theta')

    `scale` multiplies the learning rate for the look-ahead. On the bilinear game it converges where plain gradient
    descent circles away.
    """

    scale: float = 1.0

    def __call__(
        self, closure: Closure, names: Sequence[str], parameters: list[nn.Parameter], lr: float
    ) -> dict[str, Tensor]:
        """Evaluate twice; parameters are back at their start afterwards."""
        values = closure(names)
        with torch.no_grad():
            start = [parameter.detach().clone() for parameter in parameters]
            for parameter in parameters:
                if parameter.grad is not None:
                    parameter.sub_(self.scale * lr * parameter.grad)
                parameter.grad = None
        closure(names)
        restore(parameters, start)
        return values


@register("gradient", "project_conflicts")
@dataclass(frozen=True)
class ProjectConflicts:
    r"""Gradient surgery: where two losses disagree, each gives up its component against the other (Yu et al. 2020).

    .. math:: g_i \leftarrow g_i - \min(0, g_i \cdot g_j) / \lVert g_j \rVert^2 \; g_j

    The losses must be stepped together (`update.together`). They are projected against each other's original
    gradients in the order of their names, so the result does not depend on chance.
    """

    def __call__(
        self, closure: Closure, names: Sequence[str], parameters: list[nn.Parameter], lr: float
    ) -> dict[str, Tensor]:
        """Evaluate each loss apart, project, sum."""
        values: dict[str, Tensor] = {}
        originals: list[Tensor] = []
        for name in names:
            for parameter in parameters:
                parameter.grad = None
            values.update(closure([name]))
            originals.append(flat_gradient(parameters))
        total = torch.zeros_like(originals[0])
        for i, gradient in enumerate(originals):
            projected = gradient
            for j, other in enumerate(originals):
                if i != j:
                    overlap = torch.dot(projected, other).clamp(max=0.0)
                    projected = projected - overlap / other.square().sum().clamp_min(1e-24) * other
            total += projected
        set_gradient(parameters, total)
        return values


@register("gradient", "orthogonal")
@dataclass(frozen=True)
class Orthogonal:
    r"""The gradient of one loss loses its component along another's before the two are added.

    .. math:: g = g_1 + g_2 - \frac{\langle g_1, g_2 \rangle}{\max(\lVert g_1 \rVert^2, 10^{-10})}\, g_1 + g_{rest}

    To first order, a step along the rest of g_2 leaves the first loss as it is. `first`, `second`: names of two losses
    that are stepped at once, because they train the same parameters (`value/forward` and `value/backward`) or by
    `update.together`; the inner product is over all their parameters. Every other loss is added as it is, and other
    blocks are left alone.

    Raises `UserError` where a block has just one of the two. Source: O-DICE [61] (Mao et al. 2024).
    """

    first: str
    second: str

    def __call__(
        self, closure: Closure, names: Sequence[str], parameters: list[nn.Parameter], lr: float
    ) -> dict[str, Tensor]:
        """Evaluate the two losses apart, project, and add the others."""
        pair = (self.first, self.second)
        missing = [name for name in pair if name not in names]
        if len(missing) == 2:
            return closure(names)
        if missing:
            raise UserError(
                f"gradient 'orthogonal': loss '{missing[0]}' is not stepped with {', '.join(names)}; name two losses "
                "of the same parameters, or set update.together=true"
            )
        values: dict[str, Tensor] = {}
        gradients = []
        for apart in ([self.first], [self.second], [name for name in names if name not in pair]):
            for parameter in parameters:
                parameter.grad = None
            values.update(closure(apart) if apart else {})
            gradients.append(flat_gradient(parameters))
        first, second, rest = gradients
        overlap = torch.dot(first, second) / first.square().sum().clamp_min(1e-10)
        set_gradient(parameters, first + second - overlap * first + rest)
        return values


@register("gradient", "evolution")
class Evolution:
    r"""Zeroth-order gradient from antithetic perturbations (Salimans et al. 2017).

    .. math::
        g = \frac{1}{2 \sigma n} \sum_{i=1}^{n}
        [L(\theta + \sigma \epsilon_i) - L(\theta - \sigma \epsilon_i)] \epsilon_i

    `pairs` n, `sigma` the perturbation's standard deviation, `seed` of its generator. Only values are used, so the
    losses need no gradient.
    """

    def __init__(self, pairs: int = 16, sigma: float = 0.02, seed: int = 0) -> None:
        self.pairs, self.sigma = pairs, sigma
        self._generator = torch.Generator().manual_seed(seed)

    def __call__(
        self, closure: Closure, names: Sequence[str], parameters: list[nn.Parameter], lr: float
    ) -> dict[str, Tensor]:
        """Evaluate 2 n + 1 times."""
        values = closure(names)
        start = [parameter.detach().clone() for parameter in parameters]
        estimate = torch.zeros_like(flat(start))
        for _ in range(self.pairs):
            noise = torch.randn(estimate.shape, generator=self._generator).to(estimate)
            difference = self._loss_at(start, noise, closure, names, parameters)
            difference = difference - self._loss_at(start, -noise, closure, names, parameters)
            estimate += difference * noise / (2 * self.sigma * self.pairs)
        restore(parameters, start)
        set_gradient(parameters, estimate)
        return values

    def _loss_at(
        self,
        start: list[Tensor],
        direction: Tensor,
        closure: Closure,
        names: Sequence[str],
        parameters: list[nn.Parameter],
    ) -> Tensor:
        with torch.no_grad():
            for parameter, origin, step in zip(parameters, start, split(direction, start), strict=True):
                parameter.copy_(origin + self.sigma * step)
        return torch.stack(list(closure(names).values())).sum()

    def state_dict(self) -> dict[str, Tensor]:
        """The generator of perturbations."""
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Continue the same sequence of perturbations."""
        self._generator.set_state(state["generator"])
