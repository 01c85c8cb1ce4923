"""Following a critic's gradient through the action."""

from dataclasses import dataclass

from torch import Tensor

from unirl.batch import Batch
from unirl.critics.heads import Aggregate, check_aggregate, fields_of, joined
from unirl.reduce.masked import masked_mean
from unirl.registry import register


@register("objective", "value_gradient")
@dataclass(frozen=True)
class ValueGradient:
    r"""Ascend the critic's value of the policy's own action.

    .. math:: \ell_t = -\lambda\, \mathrm{agg}_k Q_k(s_t, a_\theta), \qquad
        \lambda = \text{scale} \text{ or, normalised, } \text{scale} / \mathrm{sg}(\mathrm{mean}|Q|)

    The gradient flows through the (deterministic or re-parameterised) action; the critic's own parameters belong to
    another loss. `target` joins the heads: "min" (SAC), "first" (DDPG, TD3, off-policy MDPO's code), "mean" (REDQ,
    TQC), or `{lower: beta}`, the mean less beta times the spread: the disagreement of an ensemble, or with
    `spread: predicted` that of critics which predict one (STAC [186]).
    `normalize` divides by the mean |Q| over the masked decisions of the minibatch, so that `scale` weighs the value
    against a behaviour penalty: TD3+BC is normalize, scale 2.5, target "first".

    Reads `q` [heads, N, T] or [N, T], with a predicted spread also `q_std`, and for "first" only `q_first`; gives
    [N, T]. Raises `UserError` for an unknown target. Sources: DDPG (Lillicrap et al. 2016), SAC [189], TD3+BC (Fujimoto
    & Gu 2021).
    """

    normalize: bool = False
    scale: float = 1.0
    target: Aggregate = "min"
    level = "decision"

    def __post_init__(self) -> None:
        check_aggregate(self.target, "target of objective 'value_gradient'", predicted=True)

    @property
    def reads(self) -> tuple[str, ...]:
        """Fields this needs."""
        return ("q_first",) if self.target == "first" else fields_of("q", self.target)

    def __call__(self, batch: Batch) -> Tensor:
        """The loss per decision, [N, T], not reduced."""
        q = batch.q_first if self.target == "first" else joined(batch, "q", self.target)
        if not self.normalize:
            return -self.scale * q
        size = masked_mean(q.detach().abs(), batch.mask).clamp(min=1e-8)  # a critic that is 0 everywhere has no scale
        return -self.scale / size * q
