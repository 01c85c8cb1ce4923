"""State values whose residuals are ratios of visitations: V-DICE, O-DICE, SMODICE."""

import torch
from torch import Tensor

from unirl.batch import Batch
from unirl.critics.divergences import divergence as divergence_called
from unirl.critics.heads import Aggregate, check_aggregate, over_heads
from unirl.domain import Requirements, ValueSpec
from unirl.errors import UserError, unknown
from unirl.reduce.of_source import share_of
from unirl.registry import register

SIDES = {  # side -> the values of the state and of the next one in its residual
    "state": ("value_pred",),
    "forward": ("value_pred", "next_target_value"),
    "backward": ("target_value", "next_value_pred"),
    "both": ("value_pred", "next_value_pred"),
}


@register("critic", "dice")
class DICE:
    r"""One term of the dual problem of regularised RL over state visitations.

    .. math:: \min_V\; (1 - \lambda)\, E[V(s)] + \lambda\, E[f^*(e)], \qquad
        e = r + \gamma (1 - \mathrm{terminated}) V(s') - V(s)

    f* is the positivity-constrained conjugate of `divergence` ("chi_square", "kl"; `unirl.critics.divergences`), whose
    derivative at the optimum is the ratio of the best visitation to the data's. Initial states are replaced by the
    data's own, as in the released code of dual RL. A method lists the terms that it wants; each is a loss of its own,
    named `value/SIDE`, so that a `gradient` rule can tell them apart. `side`:

        "state": (1 - lambda) V(s).
        "forward": lambda f*(e) with the target copy's V(s'): the gradient through V(s), constraining actions.
        "backward": lambda eta f*(e) with the target copy's V(s): the gradient through V(s'), constraining states too.
        "both": lambda f*(e) with the gradient through both (OptiDICE, SMODICE).

    "state" and "forward" are the semi-gradient (SQL); "state" and "both" the true gradient; "state", "forward" and
    "backward" with `update: {gradient: {name: orthogonal, first: value/forward, second: value/backward}}` O-DICE.

    lam .6, eta 1: O-DICE's defaults. heads: values, 2, each with an error of its own, which are averaged; `target` says
    how those of the target copy are joined before ("min"). gamma, tau: discount and speed of the target copy, .99 and
    .005 (None: there is none). layer_norm, dropout: of the hidden layers. source: only rows of this source count.

    Reads `value_pred`, `next_target_value`, `target_value`, `next_value_pred` [heads, N, T] as its side needs,
    `reward`, `terminated` [N, T]; gives [N, T]. Raises `UserError` for an unknown side or divergence and unless
    0 < lam < 1. Sources: O-DICE [61] (Mao et al. 2024), SMODICE (Ma et al. 2022).
    """

    def __init__(
        self,
        *,
        side: str,
        lam: float = 0.6,
        eta: float = 1.0,
        divergence: str = "chi_square",
        heads: int = 2,
        target: Aggregate = "min",
        gamma: float = 0.99,
        tau: float | None = 0.005,
        layer_norm: bool = False,
        dropout: float = 0.0,
        source: int | None = None,
        coef: float = 1.0,
    ) -> None:
        if side not in SIDES:
            raise unknown("side of critic 'dice'", str(side), SIDES)
        if not 0 < lam < 1:
            raise UserError(f"critic 'dice': lam is {lam}; it lies strictly between 0 and 1")
        check_aggregate(target, "target of critic 'dice'")
        self.aggregate = target
        self.side, self.lam, self.eta, self.gamma, self.coef = side, lam, eta, gamma, coef
        self.divergence = divergence_called(divergence, "critic 'dice'")
        self.source = source
        self._spec = ValueSpec(heads=heads, tau=tau, layer_norm=layer_norm, dropout=dropout)

    @property
    def loss_name(self) -> str:
        """`value/SIDE`."""
        return f"value/{self.side}"

    @property
    def reads(self) -> tuple[str, ...]:
        """Fields this needs."""
        paid = () if self.side == "state" else ("reward", "terminated")
        return (*SIDES[self.side], *paid, *(() if self.source is None else ("source",)))

    def requirements(self) -> Requirements:
        """A state value with a target copy."""
        return Requirements(value=self._spec)

    def residual(self, batch: Batch) -> Tensor:
        """e, [heads, N, T] or [N, T]."""
        here, there = (self._value(batch, name) for name in SIDES[self.side])
        residual: Tensor = batch.reward + self.gamma * torch.where(batch.terminated, 0, there) - here
        return residual

    def _value(self, batch: Batch, name: str) -> Tensor:
        value: Tensor = getattr(batch, name)
        return over_heads(value, self.aggregate) if name.endswith("target_value") else value

    def loss(self, batch: Batch) -> Tensor:
        """The term per decision, mean over heads, [N, T], not reduced."""
        if self.side == "state":
            term: Tensor = (1 - self.lam) * batch.value_pred
        else:
            scale = self.lam * self.eta if self.side == "backward" else self.lam
            term = scale * self.divergence.conjugate(self.residual(batch))
        term = term.mean(0) if term.dim() == 3 else term
        return term if self.source is None else term * share_of(batch, self.source)
