"""Steps of a given length in the space of policies: natural gradient, with or without a constraint on a cost."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from unirl.errors import UserError
from unirl.optim.flat import flat_gradient, restore, set_gradient, split
from unirl.optim.gradients import Closure
from unirl.registry import register

OBJECTIVE, DIVERGENCE, COST = "policy", "policy/kl", "policy/cost"  # names of losses
Product = Callable[[Tensor], Tensor]


@register("gradient", "trust_region")
@dataclass(frozen=True)
class TrustRegion:
    r"""The best step within a ball of the Kullback-Leibler divergence, to first order; then a line search along it.

    .. math:: \min_x g^\top x \ \text{ s.t. }\ \tfrac12 x^\top H x \leq \delta
        \quad [\,\text{and } c + b^\top x \leq 0\,]

    g is the gradient of the loss `policy`, H the Hessian of the loss `policy/kl` at the old policy (the Fisher
    information) plus `damping`. Where the method has a loss `policy/cost`, its value c says by how much a constraint
    is exceeded (negative: it holds) and b is its gradient: constrained policy optimisation. Without it the step is
    -sqrt(2 delta / g'H^-1 g) H^-1 g: TRPO. H^-1 is applied by conjugate gradients; a product with H is a central
    difference of gradients, (grad(theta + h v) - grad(theta - h v)) / 2h with |h v| = `probe`, so that nothing has to
    be differentiated twice.

    The step is multiplied by `shrink` until the loss is smaller than before, the divergence at most `radius` and the
    cost at most 0 (or what it was); after `tries` the policy stays. While the constraint is exceeded, the loss may
    grow; where no step within the ball can meet it, the cost is reduced as fast as the ball allows.

    radius: delta, nats per decision (.01).  damping: (.1).  iterations: of conjugate gradients (10).
    shrink, tries: of the line search (.8, 10).  probe: length of the difference in parameters (.01).

    It moves the parameters itself and leaves them without gradients: the optimizer does not touch them. Other losses
    get their plain gradients. The minibatch should be the whole batch, `update: {minibatches: 1, epochs: E,
    actor_every: E}` (one step of the policy for E of the critic). Gives the losses' values before the step, but the
    divergence after it. Raises `UserError` for settings outside their range and for a method without the constraint
    `kl`. Sources: TRPO (Schulman et al. 2015), CPO (Achiam et al. 2017); defaults of OpenAI's Spinning Up.
    """

    radius: float = 0.01
    damping: float = 0.1
    iterations: int = 10
    shrink: float = 0.8
    tries: int = 10
    probe: float = 0.01

    def __post_init__(self) -> None:
        for name in ("radius", "probe", "iterations", "tries"):
            if getattr(self, name) <= 0:
                raise UserError(f"gradient 'trust_region': {name} is {getattr(self, name)}; it must be positive")
        if self.damping < 0 or not 0 < self.shrink < 1:
            raise UserError("gradient 'trust_region': damping must be at least 0 and shrink between 0 and 1")

    def __call__(
        self, closure: Closure, names: Sequence[str], parameters: list[nn.Parameter], lr: float
    ) -> dict[str, Tensor]:
        """Move the policy, leave the gradients of the other losses."""
        if OBJECTIVE not in names:
            return closure(names)
        if DIVERGENCE not in names:
            raise UserError("gradient 'trust_region' needs the method's `constraints: {kl: {name: kl, ...}}`")
        own = [name for name in (OBJECTIVE, DIVERGENCE, COST) if name in names]
        others = [name for name in names if name not in own]
        values = self._move(closure, own, parameters)
        if others:
            values.update(closure(others))
        return values

    def _move(self, closure: Closure, names: Sequence[str], parameters: list[nn.Parameter]) -> dict[str, Tensor]:
        start = [parameter.detach().clone() for parameter in parameters]
        before, gradients = _gradients(closure, [name for name in names if name != DIVERGENCE], parameters)
        before[DIVERGENCE] = torch.zeros_like(before[OBJECTIVE])
        if not all(bool(gradient.isfinite().all()) for gradient in gradients):
            set_gradient(parameters, gradients[0] + sum(gradients[1:]))  # the update reports it
            return before

        def product(vector: Tensor) -> Tensor:
            return self._fisher_product(vector, closure, parameters, start)

        directions = [conjugate_gradient(product, gradient, self.iterations) for gradient in gradients]
        cost = float(before[COST]) if COST in before else None
        step = trust_region_step(gradients, directions, self.radius, cost)
        for attempt in range(self.tries):
            _place(parameters, start, self.shrink**attempt * step)
            after = closure(names)
            if self._accepts(before, after):
                break
        else:
            restore(parameters, start)
            after = before
        _clear(parameters)
        return {**before, DIVERGENCE: after[DIVERGENCE]}

    def _accepts(self, before: dict[str, Tensor], after: dict[str, Tensor]) -> bool:
        """Whether a step keeps what it promised; comparisons with NaN do not hold."""
        near = bool(after[DIVERGENCE] <= self.radius)
        if COST not in before:
            return near and bool(after[OBJECTIVE] < before[OBJECTIVE])
        cost = float(before[COST])
        affordable = bool(after[COST] <= max(cost, 0.0))
        return near and affordable and (cost > 0 or bool(after[OBJECTIVE] < before[OBJECTIVE]))

    def _fisher_product(
        self, vector: Tensor, closure: Closure, parameters: list[nn.Parameter], start: list[Tensor]
    ) -> Tensor:
        """(H + damping) v; leaves the parameters at their start."""
        reach = self.probe / vector.norm()
        slopes = []
        for sign in (1.0, -1.0):
            _place(parameters, start, sign * reach * vector)
            slopes.append(_gradients(closure, [DIVERGENCE], parameters)[1][0])
        restore(parameters, start)
        curved: Tensor = (slopes[0] - slopes[1]) / (2 * reach) + self.damping * vector
        return curved


def conjugate_gradient(product: Product, target: Tensor, iterations: int, tolerance: float = 1e-10) -> Tensor:
    """Solve A x = target for a positive definite A given by its products, all [P] (Hestenes & Stiefel 1952).

    Ends early where the squared residual is below `tolerance` times that of x = 0, or where rounding makes the
    curvature negative.
    """
    x, residual = torch.zeros_like(target), target.clone()
    direction, size = target.clone(), torch.dot(target, target)
    enough = tolerance * size
    for _ in range(iterations):
        if size <= enough:
            break
        image = product(direction)
        curvature = torch.dot(direction, image)
        if curvature <= 0:
            break
        length = size / curvature
        x, residual = x + length * direction, residual - length * image
        previous, size = size, torch.dot(residual, residual)
        direction = residual + size / previous * direction
    return x


def trust_region_step(
    gradients: Sequence[Tensor], directions: Sequence[Tensor], radius: float, cost: float | None
) -> Tensor:
    r"""The x that solves the problem of `TrustRegion`, [P], from g (and b) and u = H^-1 g (and w = H^-1 b).

    With q = g'u, r = g'w, s = b'w: the ball's best point is -sqrt(2 delta / q) u. Where it breaks the constraint, the
    solution lies on the plane c + b'x = 0, whose nearest point is -(c / s) w; the rest of the radius is walked within
    the plane, along u - (r / s) w. Where the plane misses the ball, -sqrt(2 delta / s) w reduces the cost the most.
    Equal to the dual solution of Achiam et al. 2017, theorem 2.
    """
    natural = directions[0]
    best = _scaled(-natural, torch.dot(natural, gradients[0]), 2 * radius)
    if cost is None or cost + torch.dot(gradients[1], best) <= 0:
        return best
    b, inward = gradients[1], directions[1]
    s = torch.dot(inward, b)
    rest = 2 * radius - cost**2 / s
    if rest <= 0 or s <= 0:
        return _scaled(-inward, s, 2 * radius)
    along = natural - torch.dot(natural, b) / s * inward
    return _scaled(-along, torch.dot(along, gradients[0]), float(rest)) - cost / s * inward


def _scaled(direction: Tensor, size: Tensor, squared_length: float) -> Tensor:
    """The direction, whose squared length in the divergence is `size`, at another one; 0 where it has none."""
    return (squared_length / size).sqrt() * direction if size > 1e-20 else torch.zeros_like(direction)


def _gradients(
    closure: Closure, names: Sequence[str], parameters: list[nn.Parameter]
) -> tuple[dict[str, Tensor], list[Tensor]]:
    """Values and flat gradients of each loss apart."""
    values, gradients = {}, []
    for name in names:
        _clear(parameters)
        values.update(closure([name]))
        gradients.append(flat_gradient(parameters))
    return values, gradients


def _clear(parameters: list[nn.Parameter]) -> None:
    for parameter in parameters:
        parameter.grad = None


@torch.no_grad()
def _place(parameters: list[nn.Parameter], start: list[Tensor], step: Tensor) -> None:
    for parameter, origin, piece in zip(parameters, start, split(step, start), strict=True):
        parameter.copy_(origin + piece)
