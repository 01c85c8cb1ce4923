"""Staying near recorded decisions."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from unirl.batch import Batch
from unirl.domain import Requirements, model_and_options
from unirl.errors import UserError, unknown
from unirl.registry import register

_ACTIONS = ("policy_action", "reference_action")
READS = {"mse": _ACTIONS, "squared": _ACTIONS, "log_likelihood": ("logp",)}


@register("regularizer", "behavior")
@dataclass(frozen=True)
class Behavior:
    r"""Distance from the policy to the behaviour that recorded the data.

    .. math:: R_t = \frac{1}{\dim A} \|a_\theta(s_t) - \bar a_t\|^2 \quad\text{or}\quad R_t = -\log\pi_\theta(a_t|s_t)

    `distance`: "mse" between `policy_action` and `reference_action` [N, T, A], the mean over action dimensions as
    in TD3+BC's code, or "squared", their sum (ReBRAC); the reference is constant. "log_likelihood" reads `logp` of the
    recorded decision and suits any policy. `reference`: an auxiliary model of the domain that names the action to stay
    near instead, as its name or {name, options}: `nearest_action` is PRDC [86]. Gives [N, T].

    Raises `UserError` for an unknown distance, and for a reference to the likelihood. Sources: TD3+BC (Fujimoto & Gu
    2021), PRDC (Ran et al. 2023).
    """

    distance: str = "mse"
    reference: str | Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        if self.distance not in READS:
            raise unknown("distance of regularizer 'behavior'", str(self.distance), READS)
        if self.reference is not None and self.distance == "log_likelihood":
            raise UserError("regularizer 'behavior': only the distance mse or squared has a reference")

    @property
    def reads(self) -> tuple[str, ...]:
        """Fields this needs."""
        if self.reference is None:
            return READS[self.distance]
        return ("policy_action", f"model.{model_and_options(self.reference)[0]}")

    def requirements(self) -> Requirements:
        """The model of the reference."""
        if self.reference is None:
            return Requirements()
        return Requirements(models=dict([model_and_options(self.reference)]))

    def __call__(self, batch: Batch) -> Tensor:
        """The penalty per decision, [N, T]."""
        if self.distance != "log_likelihood":
            near = batch.reference_action if self.reference is None else batch.model[self.reads[1].partition(".")[2]]
            squares: Tensor = (batch.policy_action - near.detach()).square()
            return squares.mean(-1) if self.distance == "mse" else squares.sum(-1)
        unlikeliness: Tensor = -batch.logp
        return unlikeliness
