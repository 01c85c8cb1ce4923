"""Policy-gradient surrogates that limit how far the importance ratio can carry an update."""

from dataclasses import dataclass

import torch
from torch import Tensor

from unirl.batch import Batch
from unirl.errors import UserError, unknown
from unirl.reduce.masked import Units, row_means
from unirl.registry import register

UNITS = ("trajectory", "turn")


@register("objective", "ppo_clip")
@dataclass(frozen=True)
class PPOClip:
    r"""Pessimistic clipped surrogate of proximal policy optimisation.

    .. math::

        \ell_t = -\min(r_t A_t,\ \mathrm{clip}(r_t, 1 - c_{lo}, 1 + c_{hi}) A_t), \qquad
        r_t = e^{\log\pi - \log\pi_{old}}

    With `dual_clip` c > 1 the loss is at most -c A where A < 0 (Ye et al. 2020, who use 3).

    Reads `logp`, `old_logp`, `advantage`, all [N, T], gives [N, T]. Works for densities: nothing assumes
    probabilities <= 1. Raises `UserError` unless dual_clip > 1. Source: Schulman et al. 2017 (.2, .2); DAPO for the
    asymmetric range (.2, .28).
    """

    clip_low: float = 0.2
    clip_high: float = 0.2
    dual_clip: float | None = None
    level = "decision"
    reads = ("logp", "old_logp", "advantage")

    def __post_init__(self) -> None:
        if self.dual_clip is not None and self.dual_clip <= 1:
            raise UserError(f"objective 'ppo_clip': dual_clip is {self.dual_clip}; it is a ratio above 1, usually 3")

    def __call__(self, batch: Batch) -> Tensor:
        """The loss per decision, [N, T], not reduced."""
        advantage: Tensor = batch.advantage.detach()
        ratio = (batch.logp - batch.old_logp.detach()).exp()
        loss = _pessimistic(ratio, advantage, self.clip_low, self.clip_high)
        if self.dual_clip is None:
            return loss
        return torch.where(advantage < 0, torch.minimum(loss, -self.dual_clip * advantage), loss)


@register("objective", "ppo_clip_joint")
@dataclass(frozen=True)
class JointPPOClip:
    r"""Clipped surrogate with one importance ratio for all decisions of a turn or of a row: their product.

    .. math::

        r_u = \exp \sum_{t \in u} m_t (\log\pi - \log\pi_{old})_t, \qquad
        \ell_t = -\frac{1}{|u|} \min(r_u A_t,\ \mathrm{clip}(r_u, 1 - c_{lo}, 1 + c_{hi}) A_t), \quad t \in u

    The decisions of a unit u share its loss, so that `reduce: sequence_sum` adds up units. `unit`: "trajectory", the
    whole row, or "turn", the decisions of a row with the same `turn`; with single decisions it would be `ppo_clip`.
    The more ratios are multiplied, the sooner the product leaves the clip range: LOOP finds single tokens best.

    Reads `logp`, `old_logp`, `advantage` [N, T] (and `turn`), gives [N, T]; needs whole rows. Where the policy is
    still the old one its gradient is that of `policy_gradient`, if advantages are equal within a unit. Works for
    densities. Raises `UserError` for another unit. Source: LOOP [121] (Chen et al. 2025), three granularities of PPO.
    """

    unit: str = "trajectory"
    clip_low: float = 0.2
    clip_high: float = 0.2
    level = "decision"
    rowwise = True

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise unknown("unit of objective 'ppo_clip_joint'", str(self.unit), UNITS)

    @property
    def reads(self) -> tuple[str, ...]:
        """Turns only where they are the unit."""
        return ("logp", "old_logp", "advantage", *(("turn",) if self.unit == "turn" else ()))

    def __call__(self, batch: Batch) -> Tensor:
        """The loss per decision, [N, T], not reduced."""
        turn = batch.turn if self.unit == "turn" else torch.zeros_like(batch.mask, dtype=torch.long)
        units = Units(turn, batch.mask)
        ratio = units.sum(batch.logp - batch.old_logp.detach()).exp()
        return _pessimistic(ratio, batch.advantage.detach(), self.clip_low, self.clip_high) / units.size


@register("objective", "gspo")
@dataclass(frozen=True)
class GSPO:
    r"""Clipped surrogate with one importance ratio per row: the geometric mean of its decisions' ratios.

    .. math::

        s_i = \exp\Big(\tfrac{1}{|m_i|} \sum_t m_{it} (\log\pi - \log\pi_{old})_{it}\Big), \qquad
        s_{it} = \mathrm{sg}(s_i)\, e^{\log\pi_{it} - \mathrm{sg}(\log\pi_{it})}, \qquad
        \ell_{it} = -\min(s_{it} A_{it},\ \mathrm{clip}(s_{it}, 1 - c_{lo}, 1 + c_{hi}) A_{it})

    s_it has the value s_i and the gradient s_i times that of the decision's own log-probability, so that advantages
    may differ between decisions; with equal ones and `reduce: sequence_mean` the gradient is exactly that of -min(s_i
    A_i, ...). The ratio is length-normalised, hence the narrow default range, 3e-4 and 4e-4 (the paper's).

    Reads `logp`, `old_logp`, `advantage` [N, T], gives [N, T]; needs whole rows. Works for densities. Source: Zheng
    et al. 2025.
    """

    clip_low: float = 3e-4
    clip_high: float = 4e-4
    level = "decision"
    rowwise = True
    reads = ("logp", "old_logp", "advantage")

    def __call__(self, batch: Batch) -> Tensor:
        """The loss per decision, [N, T], not reduced."""
        logp: Tensor = batch.logp
        log_ratio = row_means((logp - batch.old_logp).detach(), batch.mask)[:, None]
        ratio = (log_ratio + logp - logp.detach()).exp()
        return _pessimistic(ratio, batch.advantage.detach(), self.clip_low, self.clip_high)


@register("objective", "cispo")
@dataclass(frozen=True)
class CISPO:
    r"""Policy gradient with a clipped importance weight that is a constant: no decision loses its gradient.

    .. math:: \ell_t = -\mathrm{sg}\big(\mathrm{clip}(r_t, 1 - c_{lo}, 1 + c_{hi})\big) A_t \log\pi_\theta(a_t|s_t)

    The paper sets no lower bound (clip_low 1, the default: ratios are positive) and tunes the upper one; 4, a weight
    of at most 5, is the value of ScaleRL (Khatri et al. 2025).

    Reads `logp`, `old_logp`, `advantage` [N, T], gives [N, T]. Works for densities. Source: MiniMax-M1 (2025).
    """

    clip_low: float = 1.0
    clip_high: float = 4.0
    level = "decision"
    reads = ("logp", "old_logp", "advantage")

    def __call__(self, batch: Batch) -> Tensor:
        """The loss per decision, [N, T], not reduced."""
        logp: Tensor = batch.logp
        weight = (logp - batch.old_logp).detach().exp().clamp(1 - self.clip_low, 1 + self.clip_high)
        loss: Tensor = -weight * batch.advantage.detach() * logp
        return loss


def _pessimistic(ratio: Tensor, advantage: Tensor, clip_low: float, clip_high: float) -> Tensor:
    """-min(ratio A, clip(ratio) A), elementwise."""
    return -torch.minimum(ratio * advantage, ratio.clamp(1 - clip_low, 1 + clip_high) * advantage)
