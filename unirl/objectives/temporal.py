"""Ascending the next state's value as far as it exceeds what values have been lately."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from unirl.advantages.temporal import MovingMean, relative
from unirl.batch import Batch
from unirl.critics.heads import Aggregate, check_aggregate, over_heads
from unirl.critics.rectified_huber import signed_rectified
from unirl.errors import unknown
from unirl.golden import PHI
from unirl.reduce.masked import masked_mean
from unirl.registry import register

BASELINES = ("mean", "decision")


@register("objective", "temporal_advantage")
class TemporalAdvantage:
    r"""Minus the temporal advantage of the policy's action at the next state, squashed.

    .. math:: \ell_t = -\mathrm{ReHAE}\Big(\frac{\bar q_t - m}{|m|}\Big), \quad \mathrm{ReHAE}(e) = |e| \tanh(e / 2),
        \quad m \leftarrow d\, m + (1 - d)\, \mathrm{mean}(\bar q)

    q is the target critic's value of a fresh action at the next state, its heads and nodes joined by `target`; the
    gradient flows through the action alone. m is a moving average over batches with `decay` d = 1 / phi, moved before
    it is used, and constant. `baseline` "decision" is the code of Symphony S3: every decision has a baseline
    d m + (1 - d) q_t of its own.

    Reads `next_target_q_pred` [heads, N, T] and `mask`, gives [N, T]. It has a state, the average. Raises `UserError`
    for unknown options. Source: Symphony [177].
    """

    level = "decision"
    reads = ("next_target_q_pred",)

    def __init__(self, target: Aggregate = "ordered", decay: float = 1 / PHI, baseline: str = "mean") -> None:
        check_aggregate(target, "target of objective 'temporal_advantage'")
        if baseline not in BASELINES:
            raise unknown("baseline of objective 'temporal_advantage'", str(baseline), BASELINES)
        self.target, self.baseline, self.average = target, baseline, MovingMean(decay)

    def __call__(self, batch: Batch) -> Tensor:
        """The loss per decision, [N, T], not reduced."""
        value = over_heads(batch.next_target_q_pred, self.target)
        before = self.average.value.to(value)
        mean = self.average.moved(masked_mean(value.detach(), batch.mask))
        if self.baseline == "decision":
            mean = before.lerp(value.detach(), 1 - self.average.decay)
        return -signed_rectified(relative(value, mean))

    def state_dict(self) -> dict[str, Any]:
        """The moving average."""
        return self.average.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.average.load_state_dict(state)
