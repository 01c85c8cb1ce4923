"""The regression on log-ratios that all mirror-descent preference methods share."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from unirl.batch import Batch
from unirl.errors import UserError, unknown
from unirl.objectives.preference import of_pairs, preference
from unirl.reduce.masked import row_sums
from unirl.registry import register

PAYOFFS = ("label", "score")


@register("objective", "log_ratio_regression")
@dataclass(frozen=True)
class LogRatioRegression:
    r"""Mirror descent on a KL-regularised game as least squares on the log-ratio of two rows.

    .. math::

        \ell = \big([\log\pi(a) - \log\pi(b)] - [g_0(a) - g_0(b)] - s\,[g(a) - g(b)]\big)^2, \qquad
        g_0 = (1 - s\tau) \log\pi_{base} + s\tau \log\pi_{ref}

    Over pairs with full support its minimiser is the mirror step pi ~ base^(1 - s tau) ref^(s tau) exp(s g). `step`
    is s (INPO's 1/eta; 1/(lam + tau) for a proximal step of weight lam), `tau` the strength of the pull to the
    reference. The payoff:

    "label": g(a) - g(b) is estimated by `pair_label` - 1/2 (label 1 where absent, so the target is s/2 = 1/(2 eta),
        INPO's practical loss). For rows drawn independently from one policy with labels from the preference, it
        differs from the loss with the exact win rates by a constant.
    "score": g is the batch's `score` (win rates, rewards).

    With tau = 0 the reference is not read (base "ref" then gives IPO with beta = 1/s); with s tau = 1 the base is
    not. Row log-probabilities are masked sums, anchors are constants. Reads `logp`, `pairs`, the anchors, and
    `score` or, where present, `pair_label`; gives [P]. Raises `UserError` for a step that is not positive, a tau
    below 0 and an unknown payoff. Sources: INPO [40], DNO [62], EGPO [91], IPO (Azar et al. 2024).
    """

    step: float
    tau: float
    base: str = "prev"
    ref: str = "ref"
    payoff: str = "label"
    level = "pair"

    def __post_init__(self) -> None:
        if self.payoff not in PAYOFFS:
            raise unknown("payoff of objective 'log_ratio_regression'", str(self.payoff), PAYOFFS)
        if self.step <= 0 or self.tau < 0:
            raise UserError(f"objective 'log_ratio_regression': step {self.step} must be > 0 and tau {self.tau} >= 0")

    @property
    def reads(self) -> tuple[str, ...]:
        """Fields this needs."""
        anchors = tuple(f"anchor_logp.{name}" for name in self._anchors())
        return ("logp", "pairs", *anchors, *(("score",) if self.payoff == "score" else ()))

    def __call__(self, batch: Batch) -> Tensor:
        """The loss per pair, [P], not reduced."""
        log_ratio: Tensor = batch.logp
        for name, share in self._anchors().items():
            log_ratio = log_ratio - share * batch.anchor_logp[name].detach()
        per_row = row_sums(log_ratio, batch.mask)
        first, second = of_pairs(per_row, batch)
        return (first - second - self.step * self._payoff(batch, per_row)).square()

    def _anchors(self) -> dict[str, float]:
        """The anchors that have a share in g_0."""
        pull = self.step * self.tau
        if self.tau == 0:
            return {self.base: 1.0}
        if math.isclose(pull, 1.0):
            return {self.ref: 1.0}
        shares = {self.base: 1 - pull}
        shares[self.ref] = shares.get(self.ref, 0.0) + pull
        return shares

    def _payoff(self, batch: Batch, like: Tensor) -> Tensor:
        """g(a) - g(b), [P]."""
        if self.payoff == "label":
            return preference(batch, like) - 0.5
        first, second = of_pairs(batch.score.detach().to(like.dtype), batch)
        return torch.sub(first, second)
