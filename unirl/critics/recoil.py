"""Imitation without rewards and without a discriminator: the expert's values up, the mixture's consistent."""

import torch
from torch import Tensor

from unirl.batch import MIXTURE, Batch
from unirl.batch import RECORDED as EXPERT
from unirl.critics.q import Q
from unirl.domain import Requirements, ValueSpec
from unirl.errors import UserError
from unirl.reduce.of_source import share_of
from unirl.registry import register


@register("critic", "recoil_q")
class ReCOILQ(Q):
    r"""ReCOIL's action values: large for the expert, everywhere else what follows at a constant cost.

    .. math:: \ell = \tfrac12 E_{expert}\big[(Q - Q_{max})^2\big] + \tfrac12 E_{mixture}\big[(Q - y)^2\big], \qquad
        y = R_{min} + \gamma V(s')

    After a termination Q_min takes the place of V(s'). Each expectation is the mean over its own rows; errors are
    summed over heads. q_max 200, r_min -2: the released code's. q_min: r_min / (1 - gamma) where it is not given, the
    value of never meeting the expert (-200), to which a mixture state that only leads to itself converges. heads,
    gamma, tau, coef: as of critic `q`.

    Reads `q_data` [heads, N, T], `next_value`, `terminated` [N, T] and `source` [N] (2: expert, 3: mixture); no reward.
    Raises `UserError` unless q_max lies above q_min. Source: Dual RL [123] (Sikchi et al. 2024), the released ReCOIL-V.
    """

    def __init__(
        self,
        *,
        heads: int = 2,
        q_max: float = 200.0,
        r_min: float = -2.0,
        q_min: float | None = None,
        gamma: float = 0.99,
        tau: float = 0.005,
        coef: float = 1.0,
    ) -> None:
        super().__init__(heads=heads, gamma=gamma, tau=tau, bootstrap="value", half=True, coef=coef)
        self.q_max, self.r_min = q_max, r_min
        if gamma == 1 and q_min is None:
            raise UserError("critic 'recoil_q': gamma is 1, where no q_min follows from r_min; give q_min")
        self.q_min = r_min / (1 - gamma) if q_min is None else q_min
        if self.q_max <= self.q_min:
            raise UserError(f"critic 'recoil_q': q_max is {q_max}; it must lie above q_min, {self.q_min}")

    @property
    def reads(self) -> tuple[str, ...]:
        """Fields this needs."""
        return ("q_data", "next_value", "terminated", "source")

    def target(self, batch: Batch) -> Tensor:
        """The regression target y, [N, T], detached."""
        following = torch.where(batch.terminated, self.q_min, batch.next_value)
        consistent = self.r_min + self.gamma * following
        target: Tensor = torch.where((batch.source == EXPERT)[:, None], self.q_max, consistent)
        return target.detach()

    def loss(self, batch: Batch) -> Tensor:
        """The loss per decision, [N, T], not reduced; rows of other sources get 0."""
        return super().loss(batch) * (share_of(batch, EXPERT) + share_of(batch, MIXTURE))


@register("critic", "contrast")
class Contrast:
    r"""State values of the mixture down, of the expert up; to be added to another loss of `v`.

    .. math:: \ell = E_{mixture}[V(s)] - E_{expert}[V(s)]

    `coef`: ReCOIL's mixing ratio beta. Reads `value_pred` [N, T], `source` [N] (2: expert, 3: mixture); gives [N, T].
    Source: Dual RL [123] (Sikchi et al. 2024), the expectile branch of the released ReCOIL-V.
    """

    loss_name = "value"
    reads = ("value_pred", "source")

    def __init__(self, *, coef: float = 0.5) -> None:
        self.coef = coef

    def requirements(self) -> Requirements:
        """A state value."""
        return Requirements(value=ValueSpec())

    def loss(self, batch: Batch) -> Tensor:
        """The loss per decision, [N, T], not reduced."""
        loss: Tensor = batch.value_pred * (share_of(batch, MIXTURE) - share_of(batch, EXPERT))
        return loss
