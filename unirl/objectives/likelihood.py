"""Maximum likelihood of recorded decisions, plain or weighted by how good they were."""

from dataclasses import dataclass

import torch
from torch import Tensor

from unirl.batch import Batch
from unirl.critics.heads import check_aggregate, over_heads
from unirl.errors import UserError, unknown
from unirl.reduce.masked import masked_mean
from unirl.reduce.of_source import share_of
from unirl.registry import register

ADVANTAGES = {"given": ("advantage",), "critic": ("q_data", "q")}


@register("objective", "log_likelihood")
@dataclass(frozen=True)
class LogLikelihood:
    r"""Negative log-likelihood: behaviour cloning in control, supervised fine-tuning in language.

    .. math:: \ell_t = -\log\pi_\theta(a_t|s_t)

    Reads `logp` [N, T], gives [N, T].
    """

    level = "decision"
    reads = ("logp",)

    def __call__(self, batch: Batch) -> Tensor:
        """The loss per decision, [N, T], not reduced."""
        loss: Tensor = -batch.logp
        return loss


@register("objective", "advantage_weighted")
@dataclass(frozen=True)
class AdvantageWeighted:
    r"""Likelihood of recorded decisions, weighted by their exponentiated advantage.

    .. math:: \ell_t = -\mathrm{sg}\big(\min(e^{A_t / \beta}, w_{max})\big) \log\pi_\theta(a_t|s_t)

    `temperature` is beta: AWR uses 1 with `max_weight` 20 (the defaults); IQL multiplies advantages by 3 on MuJoCo
    and caps at 100, which is temperature 1/3 with max_weight 100. `normalize` divides the exponentials by their mean
    over the masked decisions of the minibatch before they are capped (self-normalised importance weights; AWAC's
    authors take no cap: max_weight null). `source`: only rows of this `source` are imitated, and the loss is their mean
    (ReCOIL); None: all.

    `advantage`: "given" by an advantage part, or the "critic"'s, of the recorded action over a fresh one of the policy,
    A = agg Q(s, a) - agg Q(s, a_theta), with heads joined as `target` says ("min", "mean", "first"): AWAC.

    Reads `logp` and `advantage` [N, T], or `logp`, `q_data` and `q` [heads, N, T], and `source` [N] where it is given;
    gives [N, T], and no gradient to a critic or its action. Raises `UserError` unless temperature > 0, and for unknown
    options. Sources: AWR (Peng et al. 2019), AWAC (Nair et al. 2020), IQL (Kostrikov et al. 2022).
    """

    temperature: float = 1.0
    max_weight: float | None = 20.0
    normalize: bool = False
    advantage: str = "given"
    target: str = "min"
    source: int | None = None
    level = "decision"

    def __post_init__(self) -> None:
        if self.temperature <= 0:
            raise UserError(f"objective 'advantage_weighted': temperature is {self.temperature}; it must be positive")
        if self.advantage not in ADVANTAGES:
            raise unknown("advantage of objective 'advantage_weighted'", str(self.advantage), ADVANTAGES)
        check_aggregate(self.target, "target of objective 'advantage_weighted'")

    @property
    def reads(self) -> tuple[str, ...]:
        """Fields this needs."""
        return ("logp", *ADVANTAGES[self.advantage], *(() if self.source is None else ("source",)))

    def __call__(self, batch: Batch) -> Tensor:
        """The loss per decision, [N, T], not reduced."""
        exponent = self._advantage(batch).detach() / self.temperature
        if self.normalize:  # the largest subtracted, so that no exponential overflows
            largest = exponent.masked_fill(~batch.mask, -torch.inf).amax()
            weight = (exponent - largest).exp().masked_fill(~batch.mask, 0.0)
            weight = weight / masked_mean(weight, batch.mask).clamp(min=1e-12)
        else:
            weight = exponent.exp()
        if self.max_weight is not None:
            weight = weight.clamp(max=self.max_weight)
        loss: Tensor = -weight * batch.logp
        return loss if self.source is None else loss * share_of(batch, self.source)

    def _advantage(self, batch: Batch) -> Tensor:
        if self.advantage == "critic":
            return over_heads(batch.q_data, self.target) - over_heads(batch.q, self.target)
        given: Tensor = batch.advantage
        return given
