"""State-value critics."""

import torch
from torch import Tensor

from unirl.batch import Batch
from unirl.critics.heads import check_aggregate, over_heads
from unirl.domain import Requirements, ValueSpec
from unirl.errors import UserError, unknown
from unirl.registry import register

LOSSES = ("mse", "clipped", "expectile")
TARGETS = {
    "returns": ("returns",),
    "q_data": ("target_q_data",),
    "soft_q": ("q", "sample_logp", "temperature"),
}
CLIP_VARIANTS = ("max", "plain")


@register("critic", "v")
class V:
    r"""Regression of a state value V (`value_pred`), with the target and the loss chosen apart.

    target:
        "returns": y = `returns` (PPO).
        "q_data": y = agg_k target-Q_k(s, a) of the recorded action (IQL).
        "soft_q": y = agg_k Q_k(s, a_theta) - temperature log pi(a_theta|s), detached (SAC of 2018, off-policy MDPO
            [64]).
    loss, with u = y - V:
        "mse": u^2.
        "clipped": V moves at most `clip` from its value before the update, V_c = V_old + clamp(V - V_old, +-clip).
            clip_variant "max" takes max(u^2, (y - V_c)^2) (OpenAI Baselines' PPO, CleanRL), "plain" takes (y - V_c)^2
            alone (Stable-Baselines3). With `anneal` the range is clip (1 - progress), as in on-policy MDPO's code.
        "expectile": |expectile - 1[u < 0]| u^2: above 1/2 it leans to the best actions in the data (IQL: .7).
    aggregate: how heads are joined, "min", "mean" or "first".
    half: multiply by 1/2 (OpenAI Baselines, CleanRL).
    coef: factor on the loss.

    `loss` gives [N, T], not reduced; no gradient flows into the target. Raises `UserError` for unknown options.
    """

    loss_name = "value"

    def __init__(
        self,
        *,
        loss: str = "mse",
        target: str = "returns",
        clip: float = 0.2,
        clip_variant: str = "max",
        anneal: bool = False,
        expectile: float = 0.7,
        aggregate: str = "min",
        half: bool = False,
        coef: float = 1.0,
    ) -> None:
        check_aggregate(aggregate, "aggregate of critic 'v'")
        for option, given, allowed in (
            ("loss", loss, LOSSES),
            ("target", target, TARGETS),
            ("clip_variant", clip_variant, CLIP_VARIANTS),
        ):
            if given not in allowed:
                raise unknown(f"{option} of critic 'v'", str(given), allowed)
        if not 0 < expectile < 1:
            raise UserError(f"critic 'v': expectile is {expectile}; it lies strictly between 0 and 1")
        self.regression, self.source, self.clip, self.clip_variant = loss, target, clip, clip_variant
        self.anneal, self.expectile, self.aggregate, self.half, self.coef = anneal, expectile, aggregate, half, coef

    @property
    def reads(self) -> tuple[str, ...]:
        """Fields this needs."""
        clipped = ("value", "progress") if self.anneal else ("value",)
        return ("value_pred", *TARGETS[self.source], *(clipped if self.regression == "clipped" else ()))

    def requirements(self) -> Requirements:
        """A state value; critics, where the target needs them, are asked for by a `q` critic."""
        return Requirements(value=ValueSpec())

    def target(self, batch: Batch) -> Tensor:
        """The regression target y, [N, T], detached."""
        if self.source == "returns":
            target: Tensor = batch.returns
        elif self.source == "q_data":
            target = over_heads(batch.target_q_data, self.aggregate)
        else:
            target = over_heads(batch.q, self.aggregate) - batch.temperature * batch.sample_logp
        return target.detach()

    def loss(self, batch: Batch) -> Tensor:
        """The loss per decision, [N, T], not reduced."""
        error: Tensor = self.target(batch) - batch.value_pred
        if self.regression == "clipped":
            loss = self._clipped(batch, error)
        elif self.regression == "expectile":
            loss = (self.expectile - (error < 0).to(error.dtype)).abs() * error.square()
        else:
            loss = error.square()
        return 0.5 * loss if self.half else loss

    def _clipped(self, batch: Batch, error: Tensor) -> Tensor:
        old = batch.value.detach()
        reach = self.clip * (1 - float(batch.progress)) if self.anneal else self.clip
        near = old + (batch.value_pred - old).clamp(-reach, reach)
        clipped = (self.target(batch) - near).square()
        return torch.maximum(error.square(), clipped) if self.clip_variant == "max" else clipped
