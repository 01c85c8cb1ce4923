"""Divergence from a frozen policy."""

from dataclasses import dataclass

from torch import Tensor

from unirl.batch import Batch
from unirl.errors import UserError, unknown
from unirl.registry import register

SAMPLED = ("k1", "k2", "k3")
ESTIMATORS = (*SAMPLED, "exact", "reparameterized")


def estimate(log_ratio: Tensor, estimator: str) -> Tensor:
    r"""Per-sample estimate of KL(pi || anchor) from d = log pi - log anchor of decisions sampled from pi.

    k1 = d (unbiased, of either sign), k2 = d^2 / 2 (biased, >= 0), k3 = e^{-d} - 1 + d (unbiased, >= 0). Source:
    Schulman 2020.
    """
    if estimator == "k1":
        return log_ratio
    if estimator == "k2":
        return log_ratio.square() / 2
    return (-log_ratio).expm1() + log_ratio


@register("regularizer", "kl")
@dataclass(frozen=True)
class KL:
    r"""KL(pi_theta || anchor) per decision, by one of several estimators.

    With d = log pi_theta - log anchor of the recorded decision, the anchor constant, and decisions sampled from
    pi_theta:

    ========= ============== ====================== ==============================================================
    estimator penalty        gradient               its expectation
    ========= ============== ====================== ==============================================================
    k1        d              grad log pi            0: as a loss it has no signal (it is meant for the reward)
    k2        d^2 / 2        d grad log pi          grad KL(pi || anchor)
    k3        e^-d - 1 + d   (1 - e^-d) grad log pi grad KL(anchor || pi): the other direction, equal to first order
    ========= ============== ====================== ==============================================================

    `weighted=True` multiplies these by the importance ratio e^{log pi - log pi_old}, gradient included: for decisions
    sampled from the old policy, k1 and k3 are then unbiased for KL(pi || anchor) in value and gradient (k2 in
    neither). Two estimators need no recorded decision: "exact" is the closed form per state, "reparameterized" is
    log pi(a_theta) - log anchor(a_theta) of a fresh action, differentiable through the action in both terms
    (off-policy MDPO).

    `from_anchor=True` turns the divergence round, KL(anchor || pi_theta), in closed form or with -d in the place of d,
    for decisions sampled from the anchor (TRPO's constraint, with the policy before the update as anchor; then k3's
    second derivative at the anchor is the Fisher information of the sample).

    `to`: the anchor's name. Reads `logp` and `anchor_logp.<to>` (and `old_logp` if weighted), or `anchor_kl.<to>`
    (`kl_from_anchor.<to>`), or `sample_logp` and `sample_anchor_logp.<to>`; gives [N, T]. Densities may make d any
    number; k3 grows as e^-d. Raises `UserError` for an unknown estimator, for weighting one that uses no recorded
    decision, and for turning round one that is weighted or re-parameterised. Sources:
    Schulman 2020; GRPO (Shao et al. 2024) for k3; MDPO [64].
    """

    to: str = "ref"
    estimator: str = "k1"
    weighted: bool = False
    from_anchor: bool = False

    def __post_init__(self) -> None:
        if self.estimator not in ESTIMATORS:
            raise unknown("estimator of regularizer 'kl'", str(self.estimator), ESTIMATORS)
        if self.weighted and self.estimator not in SAMPLED:
            raise UserError(f"regularizer 'kl': weighted=true is for {', '.join(SAMPLED)}, not for '{self.estimator}'")
        if self.from_anchor and (self.weighted or self.estimator == "reparameterized"):
            raise UserError("regularizer 'kl': from_anchor=true is for decisions of the anchor or estimator=exact")

    @property
    def reads(self) -> tuple[str, ...]:
        """Fields this needs."""
        if self.estimator == "exact":
            return (f"{'kl_from_anchor' if self.from_anchor else 'anchor_kl'}.{self.to}",)
        if self.estimator == "reparameterized":
            return ("sample_logp", f"sample_anchor_logp.{self.to}")
        return ("logp", f"anchor_logp.{self.to}", *(("old_logp",) if self.weighted else ()))

    def __call__(self, batch: Batch) -> Tensor:
        """The penalty per decision, [N, T]."""
        if self.estimator == "exact":
            exact: Tensor = (batch.kl_from_anchor if self.from_anchor else batch.anchor_kl)[self.to]
            return exact
        if self.estimator == "reparameterized":
            sampled: Tensor = batch.sample_logp - batch.sample_anchor_logp[self.to]
            return sampled
        log_ratio = batch.logp - batch.anchor_logp[self.to].detach()
        penalty = estimate(-log_ratio if self.from_anchor else log_ratio, self.estimator)
        return (batch.logp - batch.old_logp.detach()).exp() * penalty if self.weighted else penalty
