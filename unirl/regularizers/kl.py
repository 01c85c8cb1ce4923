"""Divergence from a frozen policy."""

from dataclasses import dataclass

import torch
from torch import Tensor

from unirl.batch import Batch
from unirl.domain import Requirements
from unirl.errors import UserError, unknown
from unirl.registry import register

SAMPLED = ("k1", "k2", "k3")
ESTIMATORS = (*SAMPLED, "exact", "top_k", "reparameterized")


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


def top_choices_kl(logp: Tensor, other_logp: Tensor) -> Tensor:
    r"""KL(p || q) of two distributions seen through a set S of choices and one bucket for all others, [...].

    .. math:: \sum_{v \in S} p_v (\log p_v - \log q_v) + \bar p\,(\log \bar p - \log \bar q), \qquad
        \bar p = 1 - \sum_{v \in S} p_v

    Never more than the exact KL, by the data-processing inequality, and equal to it, with its gradient in the logits,
    where S holds every choice that p and q can make. `logp`, `other_logp` [..., k] are log-probabilities of the
    choices in S. One that p cannot make (minus infinity) counts nothing and gets no gradient; one that only q cannot
    make is infinite.
    Either bucket counts as at least the machine's epsilon (1.2e-7 in float32): less is not to be told from rounding,
    and so the logarithm of their ratio is at most 16 and slopes are finite, where S holds everything too.
    """
    possible = logp > -torch.inf
    p = torch.where(possible, logp.exp(), 0)  # a constant where its slope would be 0 times infinity
    rest, other_rest = _rest(p), _rest(other_logp.exp())
    of_choices = torch.where(possible, p * (logp - other_logp), 0).sum(-1)
    return of_choices + rest * (rest.log() - other_rest.log())


def _rest(p: Tensor) -> Tensor:
    """What probabilities [..., k] leave to all other choices, [...], at least the machine's epsilon."""
    return (1 - p.sum(-1)).clamp(min=torch.finfo(p.dtype).eps)


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
    neither). Three estimators need no recorded decision: "exact" is the closed form per state; "reparameterized" is
    log pi(a_theta) - log anchor(a_theta) of a fresh action, differentiable through the action in both terms
    (off-policy MDPO); "top_k" looks at S, the policy's `choices` likeliest choices when the batch was made, and at all
    others as one (p is the policy, q the anchor):

    .. math:: \sum_{v \in S} p_v \log \frac{p_v}{q_v} + \bar p \log \frac{\bar p}{\bar q}, \quad
        \bar p = 1 - \sum_{v \in S} p_v

    That is at most the exact KL (see `top_choices_kl`) and, in language, needs the anchor once per batch, not in every
    step.

    `from_anchor=True` turns the divergence round, KL(anchor || pi_theta), in closed form, over the same choices, or
    with -d in the place of d, for decisions sampled from the anchor (TRPO's constraint, with the policy before the
    update as anchor; then k3's second derivative at the anchor is the Fisher information of the sample).

    `to`: the anchor's name. Reads `logp` and `anchor_logp.<to>` (and `old_logp` if weighted), or `anchor_kl.<to>`
    (`kl_from_anchor.<to>`), or `top_logp` and `anchor_top_logp.<to>` [N, T, k], or `sample_logp` and
    `sample_anchor_logp.<to>`; gives [N, T]. Densities may make d any number; k3 grows as e^-d. Raises `UserError` for
    an unknown estimator, for weighting one that uses no recorded decision, for turning round one that is weighted or
    re-parameterised, and for choices that are not a number of at least 1. Sources:
    Schulman 2020; GRPO (Shao et al. 2024) for k3; MDPO [64]; Cover and Thomas 2006, section 2.8, for the bound of
    "top_k".
    """

    to: str = "ref"
    estimator: str = "k1"
    weighted: bool = False
    from_anchor: bool = False
    choices: int = 16

    def __post_init__(self) -> None:
        if self.estimator not in ESTIMATORS:
            raise unknown("estimator of regularizer 'kl'", str(self.estimator), ESTIMATORS)
        if self.weighted and self.estimator not in SAMPLED:
            raise UserError(f"regularizer 'kl': weighted=true is for {', '.join(SAMPLED)}, not for '{self.estimator}'")
        if self.from_anchor and (self.weighted or self.estimator == "reparameterized"):
            raise UserError(
                "regularizer 'kl': from_anchor=true is for decisions of the anchor or estimator=exact or top_k"
            )
        if not isinstance(self.choices, int) or isinstance(self.choices, bool) or self.choices < 1:
            raise UserError(f"regularizer 'kl': choices is {self.choices!r}; it is a number of at least 1")

    @property
    def reads(self) -> tuple[str, ...]:
        """Fields this needs."""
        if self.estimator == "exact":
            return (f"{'kl_from_anchor' if self.from_anchor else 'anchor_kl'}.{self.to}",)
        if self.estimator == "top_k":
            return ("top_logp", f"anchor_top_logp.{self.to}")
        if self.estimator == "reparameterized":
            return ("sample_logp", f"sample_anchor_logp.{self.to}")
        return ("logp", f"anchor_logp.{self.to}", *(("old_logp",) if self.weighted else ()))

    def requirements(self) -> Requirements:
        """How many likeliest choices "top_k" looks at."""
        return Requirements(top_choices=self.choices if self.estimator == "top_k" else 0)

    def __call__(self, batch: Batch) -> Tensor:
        """The penalty per decision, [N, T]."""
        if self.estimator == "exact":
            exact: Tensor = (batch.kl_from_anchor if self.from_anchor else batch.anchor_kl)[self.to]
            return exact
        if self.estimator == "top_k":
            own = batch.top_logp[..., : self.choices]  # another part may have asked for more
            anchor = batch.anchor_top_logp[self.to][..., : self.choices].detach()
            return top_choices_kl(anchor, own) if self.from_anchor else top_choices_kl(own, anchor)
        if self.estimator == "reparameterized":
            sampled: Tensor = batch.sample_logp - batch.sample_anchor_logp[self.to]
            return sampled
        log_ratio = batch.logp - batch.anchor_logp[self.to].detach()
        penalty = estimate(-log_ratio if self.from_anchor else log_ratio, self.estimator)
        return (batch.logp - batch.old_logp.detach()).exp() * penalty if self.weighted else penalty
