"""Better actions than a policy's samples: the best of several, each moved up the critic's slope (PA-RL)."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

ASCENTS = ("mean", "min")
ActionValue = Callable[[Tensor], Tensor]
"""`q(actions)`: actions [K, ..., A] to the values of every critic, [heads, K, ...], differentiable in the actions."""


class Improved(NamedTuple):
    """Actions [k, ..., A], in ascending order before they were moved, and the mean of the critics there, [k, ...]."""

    actions: Tensor
    values: Tensor

    def best(self) -> Tensor:
        """The action of the largest value, [..., A]."""
        return _take(self.actions, self.values.argmax(0, keepdim=True))[0]

    def weights(self) -> Tensor:
        """Softmax of the values over the k actions, [k, ...]."""
        return self.values.softmax(0)

    def draw(self, generator: torch.Generator | None = None) -> Tensor:
        """One action for each state, with the probabilities `weights`, [..., A]."""
        by_state = self.weights().movedim(0, -1)
        flat = torch.multinomial(by_state.reshape(-1, len(self.actions)), 1, generator=generator)
        return _take(self.actions, flat.reshape(1, *by_state.shape[:-1]))[0]


def improve(
    actions: Tensor,
    q: ActionValue,
    *,
    keep: int = 10,
    steps: int = 10,
    step_size: float = 3e-4,
    ascent: str = "mean",
    recorded: Tensor | None = None,
) -> Improved:
    r"""The `keep` best of the candidates by the mean of the critics, each moved uphill within [-1, 1].

    .. math:: a^{j+1} = \mathrm{clip}(a^j + \epsilon \nabla_a Q(s, a^j)), \quad j < T

    Of each path the iterate of the largest Q is returned, so that no action becomes worse. `ascent` says what Q is
    on the path: the "mean" of the critics or their "min"; the values returned are the mean in both cases. `recorded`
    [..., A] takes the place of the worst kept action. Without steps only the ranking remains.

    `actions` [m, ..., A], of which `keep` <= m; nothing returned has a gradient. Source: policy-agnostic RL [221].
    """
    with torch.no_grad():
        values = q(actions).mean(0)
        order = values.argsort(0)[-keep:]
        actions, values = _take(actions, order), values.gather(0, order)
        if recorded is not None:
            actions = torch.cat([actions[1:], recorded[None]])
    if steps:
        actions, values = climb(actions, q, steps=steps, step_size=step_size, ascent=ascent)
    if ascent != "mean" or (recorded is not None and not steps):  # otherwise they are known
        with torch.no_grad():
            values = q(actions).mean(0)
    return Improved(actions, values)


def climb(
    actions: Tensor, q: ActionValue, *, steps: int, step_size: float, ascent: str = "mean"
) -> tuple[Tensor, Tensor]:
    """Gradient ascent from every action; the best iterate of each path and its value, as `ascent` joins the critics."""
    best, best_value = actions, torch.full(actions.shape[:-1], -torch.inf).to(actions)
    for step in range(steps + 1):
        with torch.enable_grad():
            at = actions.detach().requires_grad_()
            values = q(at)
            value = values.amin(0) if ascent == "min" else values.mean(0)
            slope = torch.autograd.grad(value.sum(), at)[0] if step < steps else torch.zeros_like(at)
        better = value.detach() >= best_value
        best_value = torch.where(better, value.detach(), best_value)
        best = torch.where(better.unsqueeze(-1), at.detach(), best)
        actions = (at.detach() + step_size * slope).clamp(-1.0, 1.0)
    return best, best_value


def _take(actions: Tensor, order: Tensor) -> Tensor:
    """Of [m, ..., A] the actions at places [k, ...] of the first dimension: [k, ..., A]."""
    return actions.gather(0, order.unsqueeze(-1).expand(*order.shape, actions.shape[-1]))
