"""Action values of an imitator: the expert's above its own, consistent as far as a divergence allows."""

import torch
from torch import Tensor

from unirl.batch import RECORDED as EXPERT
from unirl.batch import Batch
from unirl.critics.heads import Aggregate, over_heads
from unirl.critics.q import SoftQ
from unirl.domain import Requirements
from unirl.errors import UserError, unknown
from unirl.reduce.of_source import share_of, share_of_others
from unirl.registry import register

STATES = ("all", "others", "expert", "start")


@register("critic", "dual_q")
class DualQ(SoftQ):
    r"""The dual of imitation under a chi-square divergence: rewards are what the values imply.

    .. math:: \ell = c\, \big(E_{states}[V(s) - y] - E_{expert}[Q(s, a) - y]\big)
        + \frac{1}{4 \alpha} \big(m E_{expert} + (1 - m) E_{others}\big) [(Q(s, a) - y)^2]

    with V(s) = agg_k Q_k(s, a_pi) - temperature log pi(a_pi|s), which trains the critics and not the policy, and
    y = gamma (1 - terminated) V(s'), through which gradients flow: Q - y is the reward that the values imply. Each
    expectation is the mean over its own rows, terms in Q are averaged over heads. With `semi`, y comes from the target
    critics and is a constant (the released code's use_target); values of states that the policy leads to are then only
    lowered, which makes ending an episode attractive.

    states: where the policy's values are lowered: "all" rows (IQ-Learn online), the "others" than the expert's
        (ReCOIL) or the "expert" alone; "start": V(s) - y is replaced by (1 - gamma) V(s) over the expert's rows, each
        taken for the start of an episode (the released code's v0, its setting for Hopper and Walker).
    contrast: c, 1. mixture: m, 1/2, the expert's share. chi_square: alpha, 1/2. IQ-Learn is the defaults; ReCOIL's dual
        has contrast = mixture = beta, states "others", chi_square 1.
    heads, target, gamma, tau, coef: as in critic `soft_q`.

    Reads `q_data` [heads, N, T], `model.policy_q`, `model.policy_next_q` [N, T, heads], `model.policy_logp`,
    `model.policy_next_logp`, `terminated` [N, T], `source` [N] (2: expert) and `temperature`, with `semi` `next_q` and
    `next_logp` in place of the model's; gives [N, T]. No reward. Raises `UserError` for
    unknown states, unless chi_square > 0 and unless 0 <= mixture <= 1. Sources: IQ-Learn (Garg et al. 2021), Dual RL
    [123] (Sikchi et al. 2024).
    """

    def __init__(
        self,
        *,
        states: str = "all",
        contrast: float = 1.0,
        mixture: float = 0.5,
        chi_square: float = 0.5,
        semi: bool = False,
        heads: int = 2,
        target: Aggregate = "min",
        gamma: float = 0.99,
        tau: float = 0.005,
        coef: float = 1.0,
    ) -> None:
        super().__init__(heads=heads, target=target, gamma=gamma, tau=tau, coef=coef)
        if states not in STATES:
            raise unknown("states of critic 'dual_q'", str(states), STATES)
        if chi_square <= 0 or not 0 <= mixture <= 1:
            raise UserError(
                f"critic 'dual_q': chi_square is {chi_square}, mixture {mixture}; they must be positive and in [0, 1]"
            )
        self.states, self.contrast, self.mixture, self.chi_square = states, contrast, mixture, chi_square
        self.semi = semi

    @property
    def reads(self) -> tuple[str, ...]:
        """Fields this needs."""
        following = ("next_q", "next_logp") if self.semi else ("model.policy_next_q", "model.policy_next_logp")
        own = ("q_data", "model.policy_q", "model.policy_logp", "terminated", "source", "temperature")
        return (*own, *following)

    def requirements(self) -> Requirements:
        """Critics with target copies, and their values of the policy's actions."""
        return super().requirements().and_also(Requirements(models={"policy_values": {}}))

    def target(self, batch: Batch) -> Tensor:
        """y, [N, T]; differentiable, but with `semi`."""
        if self.semi:
            return self.gamma * torch.where(batch.terminated, 0, self._next(batch)).detach()
        following = self._soft(batch, "policy_next_q", "policy_next_logp")
        return self.gamma * torch.where(batch.terminated, 0, following)

    def _soft(self, batch: Batch, values: str, logp: str) -> Tensor:
        """The model's values of the policy's actions, with its entropy, [N, T]."""
        own = over_heads(batch.model[values].movedim(-1, 0), self.aggregate)
        soft: Tensor = own - batch.temperature * batch.model[logp].detach()
        return soft

    def loss(self, batch: Batch) -> Tensor:
        """The loss per decision, [N, T], not reduced."""
        target = self.target(batch)
        reward = batch.q_data - target
        mean, square = (_mean(reward), _mean(reward.square()))
        expert, others = share_of(batch, EXPERT), share_of_others(batch, EXPERT)
        own = self._soft(batch, "policy_q", "policy_logp")
        excess = (1 - self.gamma) * own if self.states == "start" else own - target
        lowered = {"all": torch.ones_like(expert), "others": others}.get(self.states, expert)
        contrast = lowered * excess - expert * mean
        squares = (self.mixture * expert + (1 - self.mixture) * others) * square
        loss: Tensor = self.contrast * contrast + squares / (4 * self.chi_square)
        return loss


def _mean(values: Tensor) -> Tensor:
    """Over heads, where there are several."""
    return values.mean(0) if values.dim() == 3 else values
