"""Staying near recorded decisions."""

from dataclasses import dataclass

from torch import Tensor

from unirl.batch import Batch
from unirl.errors import unknown
from unirl.registry import register

READS = {"mse": ("policy_action", "reference_action"), "log_likelihood": ("logp",)}


@register("regularizer", "behavior")
@dataclass(frozen=True)
class Behavior:
    r"""Distance from the policy to the behaviour that recorded the data.

    .. math:: R_t = \frac{1}{\dim A} \|a_\theta(s_t) - \bar a_t\|^2 \quad\text{or}\quad R_t = -\log\pi_\theta(a_t|s_t)

    `distance`: "mse" between `policy_action` and `reference_action` [N, T, A], the mean over action dimensions as
    in TD3+BC's code; the reference is constant. "log_likelihood" reads `logp` of the recorded decision and suits
    any policy. Gives [N, T]. Raises `UserError` for an unknown distance. Source: TD3+BC (Fujimoto & Gu 2021).
    """

    distance: str = "mse"

    def __post_init__(self) -> None:
        if self.distance not in READS:
            raise unknown("distance of regularizer 'behavior'", str(self.distance), READS)

    @property
    def reads(self) -> tuple[str, ...]:
        """Fields this needs."""
        return READS[self.distance]

    def __call__(self, batch: Batch) -> Tensor:
        """The penalty per decision, [N, T]."""
        if self.distance == "mse":
            distance: Tensor = (batch.policy_action - batch.reference_action.detach()).square().mean(-1)
            return distance
        unlikeliness: Tensor = -batch.logp
        return unlikeliness
