r"""Losses on pairs of rows of which one is preferred.

`pairs` [P, 2] names two rows a and b; `pair_label` [P] is the probability p that a is preferred, 1 where absent.
With l(a > b) the loss of the label "a is preferred", every objective here gives p l(a > b) + (1 - p) l(b > a), [P].
Log-probabilities of a row are sums over its masked decisions (tokens of a response, steps of a segment), never
means; anchors carry no gradient.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from unirl.batch import Batch
from unirl.errors import UserError
from unirl.reduce.masked import row_sums
from unirl.registry import register


@register("objective", "dpo")
@dataclass(frozen=True)
class DPO:
    r"""Direct preference optimisation: logistic regression of the preference on log-ratios to a reference.

    .. math::

        \ell(a \succ b) = -\log\sigma(\beta h_a - \beta h_b), \qquad
        h_i = \sum_t m_{it} (\log\pi - \log\pi_{ref})_{it}

    `label_smoothing` e in [0, 1/2) replaces the label p by p (1 - e) + (1 - p) e (conservative DPO, Mitchell 2023).
    beta .1 is the paper's.

    Reads `logp`, `anchor_logp.ref`, `pairs` (and `pair_label` where present), gives [P]. Raises `UserError` for a
    smoothing outside its range. Source: Rafailov et al. 2023.
    """

    beta: float = 0.1
    label_smoothing: float = 0.0
    level = "pair"
    reads = ("logp", "anchor_logp.ref", "pairs")

    def __post_init__(self) -> None:
        if not 0 <= self.label_smoothing < 0.5:
            raise UserError(f"objective 'dpo': label_smoothing is {self.label_smoothing}; it lies in [0, 0.5)")

    def __call__(self, batch: Batch) -> Tensor:
        """The loss per pair, [P], not reduced."""
        strength = self.beta * row_sums(batch.logp - batch.anchor_logp["ref"].detach(), batch.mask)
        first, second = of_pairs(strength, batch)
        label = preference(batch, strength)
        label = label * (1 - self.label_smoothing) + (1 - label) * self.label_smoothing
        return label * -logsigmoid(first - second) + (1 - label) * -logsigmoid(second - first)


@register("objective", "ipo")
@dataclass(frozen=True)
class IPO:
    r"""Identity preference optimisation: regress the difference of log-ratios on a constant.

    .. math::

        \ell(a \succ b) = \Big(h_a - h_b - \frac{1}{2\beta}\Big)^2, \qquad
        h_i = \sum_t m_{it} (\log\pi - \log\pi_{ref})_{it}

    Bounded even for deterministic preferences, unlike DPO. h is a sum as in the paper; some libraries take the mean
    over tokens, which changes the meaning of beta.

    Reads `logp`, `anchor_logp.ref`, `pairs` (and `pair_label` where present), gives [P]. Raises `UserError` unless
    beta > 0.
    Source: Azar et al. 2024.
    """

    beta: float = 0.1
    level = "pair"
    reads = ("logp", "anchor_logp.ref", "pairs")

    def __post_init__(self) -> None:
        if self.beta <= 0:
            raise UserError(f"objective 'ipo': beta is {self.beta}; it must be positive")

    def __call__(self, batch: Batch) -> Tensor:
        """The loss per pair, [P], not reduced."""
        log_ratio = row_sums(batch.logp - batch.anchor_logp["ref"].detach(), batch.mask)
        first, second = of_pairs(log_ratio, batch)
        label, margin = preference(batch, log_ratio), 1 / (2 * self.beta)
        return label * (first - second - margin).square() + (1 - label) * (second - first - margin).square()


@register("objective", "cpl")
@dataclass(frozen=True)
class CPL:
    r"""Contrastive preference learning: preferences over segments of any decision process, without a reward.

    .. math::

        \ell(a \succ b) = -\log\sigma(S_a - \lambda S_b), \qquad
        S_i = \alpha \sum_t m_{it} \gamma^{k_{it}} \log\pi_{it}

    k counts the row's masked decisions from 0. `bias` is lambda in (0, 1]: below 1 a policy that makes the compared
    segments unlikely pays for it; the loss is invariant to adding a constant to all log-probabilities only at 1. With
    `reference` the log-ratio to that anchor takes the place of log pi (CPL-KL); with one decision per row and bias 1
    this is DPO with beta = alpha. Defaults are the paper's: alpha .1 (.2 with a reference), bias .5 (.75 with a
    reference), gamma 1 (its code).

    Reads `logp`, `pairs` (`pair_label` where present) and `anchor_logp.<reference>`, gives [P]. Raises `UserError`
    for a bias outside (0, 1]. Source: CPL [85] (Hejna et al. 2024).
    """

    alpha: float = 0.1
    bias: float = 0.5
    gamma: float = 1.0
    reference: str | None = None
    level = "pair"

    def __post_init__(self) -> None:
        if not 0 < self.bias <= 1:
            raise UserError(f"objective 'cpl': bias is {self.bias}; it lies in (0, 1]")

    @property
    def reads(self) -> tuple[str, ...]:
        """Fields this needs."""
        return ("logp", "pairs") if self.reference is None else ("logp", "pairs", f"anchor_logp.{self.reference}")

    def __call__(self, batch: Batch) -> Tensor:
        """The loss per pair, [P], not reduced."""
        logp: Tensor = batch.logp
        if self.reference is not None:
            logp = logp - batch.anchor_logp[self.reference].detach()
        discount = torch.full_like(logp, self.gamma) ** (batch.mask.cumsum(1) - 1).clamp(min=0)
        strength = self.alpha * row_sums(discount * logp, batch.mask)
        first, second = of_pairs(strength, batch)
        label = preference(batch, strength)
        return label * -logsigmoid(first - self.bias * second) + (1 - label) * -logsigmoid(second - self.bias * first)


def of_pairs(per_row: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """[N] -> [P], [P]: the values of the first and of the second row of every pair."""
    return per_row[batch.pairs[:, 0]], per_row[batch.pairs[:, 1]]


def preference(batch: Batch, like: Tensor) -> Tensor:
    """The probability that the first row is preferred, [P], in the precision of `like`; 1 without labels."""
    label: Tensor | None = batch.get("pair_label")
    return like.new_ones(len(batch.pairs)) if label is None else label.detach().to(like.dtype)
