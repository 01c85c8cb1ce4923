"""Critics that predict quantiles of the return."""

from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

from unirl.batch import Batch
from unirl.critics.q import SoftQ
from unirl.critics.returns import Atoms
from unirl.domain import QSpec
from unirl.errors import UserError
from unirl.registry import register


@register("critic", "quantile_q")
class QuantileQ(SoftQ):
    r"""Soft temporal-difference regression of quantiles, without the largest ones of all heads together.

    .. math:: y_j = r + \gamma (1 - \mathrm{terminated}) [\bar z_{(j)} - \alpha \log\pi(a'|s')], \qquad
        \ell = \sum_k \frac{1}{M J} \sum_{m, j} |\tau_m - 1[u < 0]|\, H_\kappa(u) / \kappa, \quad u = y_j - \theta_{km}

    z_(j) are the J = heads (atoms - dropped) smallest of all target atoms in ascending order, tau_m = (m - 1/2)/atoms
    and H the Huber loss, u^2/2 for |u| <= kappa and kappa (|u| - kappa/2) beyond. Dropping the largest atoms holds
    overestimation down as far as one likes, where a minimum over heads leaves no choice.

    heads, atoms, dropped: 5 critics of 25 quantiles, of which 2 for every critic are dropped (the paper: 0 on
        HalfCheetah, 5 on Hopper).
    kappa: width of the Huber loss, 1.
    gamma, tau, coef: as in critic `q`. layer_norm, dropout: of the critics' hidden layers.

    Reads `q_data`, `next_q` [heads * atoms, N, T], `next_logp`, `reward`, `terminated` [N, T] and `temperature`. `loss`
    gives [N, T], summed over heads. With the objective `value_gradient` of target "mean" the actor follows the mean of
    all atoms. Raises `UserError` unless 0 <= dropped < atoms and kappa > 0. Source: TQC (Kuznetsov et al. 2020).
    """

    def __init__(
        self,
        *,
        heads: int = 5,
        atoms: int = 25,
        dropped: int = 2,
        kappa: float = 1.0,
        gamma: float = 0.99,
        tau: float = 0.005,
        layer_norm: bool = False,
        dropout: float = 0.0,
        coef: float = 1.0,
    ) -> None:
        if not 0 <= dropped < atoms:
            raise UserError(f"critic 'quantile_q': {dropped} of {atoms} atoms are dropped; at least one must be left")
        if kappa <= 0:
            raise UserError(f"critic 'quantile_q': kappa is {kappa}; it must be positive")
        super().__init__(heads=heads, gamma=gamma, tau=tau, layer_norm=layer_norm, dropout=dropout, coef=coef)
        self.atoms, self.dropped, self.kappa = atoms, dropped, kappa

    @property
    def spec(self) -> QSpec:
        """Critics with atoms."""
        return replace(super().spec, atoms=self.atoms)

    def target(self, batch: Batch) -> Tensor:
        """The target atoms, [J, N, T], detached."""
        kept = Atoms(batch.next_q).truncated(self.heads * self.dropped)
        rest = torch.where(batch.terminated, 0, kept - batch.temperature * batch.next_logp)
        target: Tensor = batch.reward + self.gamma * rest
        return target.detach()

    def loss(self, batch: Batch) -> Tensor:
        """Quantile regression summed over heads, [N, T], not reduced."""
        atoms: Tensor = batch.q_data
        below = (torch.arange(len(atoms), device=atoms.device) % self.atoms + 0.5) / self.atoms
        return quantile_huber(atoms, self.target(batch), below, self.kappa).sum(0) / self.atoms


def quantile_huber(atoms: Tensor, targets: Tensor, below: Tensor, kappa: float) -> Tensor:
    """The Huber quantile loss of every atom [K, N, T], averaged over ascending constant targets [J, N, T].

    `below` [K]: the share of targets that should lie below each atom. The loss is piecewise quadratic in an atom, with
    pieces that end where targets lie kappa below it, at it and kappa above it; sorted targets and their running sums
    give value and slope of every piece in (K + J) log J steps, where comparing all pairs takes K J. The result has this
    value and this slope, and no second derivative.
    """
    with torch.no_grad():
        theta = atoms.movedim(0, -1).double().contiguous()  # [N, T, K]
        sorted_targets = targets.movedim(0, -1).double().contiguous()  # [N, T, J]
        first, second = (F.pad(sums.cumsum(-1), (1, 0)) for sums in (sorted_targets, sorted_targets.square()))
        edges = [torch.searchsorted(sorted_targets, theta + shift) for shift in (-kappa, 0.0, kappa)]
        edges = [torch.zeros_like(edges[0]), *edges, torch.full_like(edges[0], len(targets))]
        pieces = [  # targets far below the atom, below it, above it, far above it: their number, sum, sum of squares
            (
                end - start,
                first.gather(-1, end) - first.gather(-1, start),
                second.gather(-1, end) - second.gather(-1, start),
            )
            for start, end in pairwise(edges)
        ]
        (n, y, _), near_below, near_above, (m, z, _) = pieces
        falling = kappa * (n * (theta - kappa / 2) - y) + _half_squares(theta, *near_below)
        rising = kappa * (z - m * (theta + kappa / 2)) + _half_squares(theta, *near_above)
        falling_slope = kappa * n + near_below[0] * theta - near_below[1]
        rising_slope = near_above[0] * theta - near_above[1] - kappa * m
        scale = 1 / (kappa * len(targets))
        value = scale * ((1 - below) * falling + below * rising)
        slope = scale * ((1 - below) * falling_slope + below * rising_slope)
    value, slope = (each.movedim(-1, 0).to(atoms.dtype) for each in (value, slope))
    return value + slope * (atoms - atoms.detach())


def _half_squares(theta: Tensor, count: Tensor, total: Tensor, squares: Tensor) -> Tensor:
    """Sum of (theta - y)^2 / 2 over `count` targets of this sum and sum of squares."""
    return 0.5 * (squares - 2 * theta * total + count * theta.square())
