"""State-value critics."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from unirl.batch import Batch
from unirl.critics.heads import check_aggregate, over_heads
from unirl.critics.regressions import make_regression
from unirl.domain import Requirements, ValueSpec
from unirl.errors import UserError, unknown
from unirl.reduce.masked import Units
from unirl.reduce.of_source import of_source, share_of
from unirl.registry import make, register

TARGETS = {
    "returns": ("returns",),
    "q_data": ("target_q_data",),
    "soft_q": ("q", "sample_logp", "temperature"),
}
OPTIONS = (
    *(
        "loss",
        "target",
        "proximal",
        "tsallis",
        "aggregate",
        "source",
        "per_turn",
        "layer_norm",
        "dropout",
        "half",
        "coef",
    ),
)


@register("critic", "v")
class V:
    r"""Regression of a state value V (`value_pred`), with the target and the loss chosen apart.

    target:
        "returns": y = `returns` (PPO).
        "q_data": y = agg_k target-Q_k(s, a) of the recorded action (IQL).
        "soft_q": y = agg_k Q_k(s, a_theta) - temperature log pi(a_theta|s), detached (SAC of 2018, off-policy MDPO
            [64]). With `proximal`, {anchor: coefficient}, minus coefficient (log pi - log anchor)(a_theta|s): the
            divergence that the policy pays belongs to the value (a form of off-policy MDPO). With `tsallis`, {index,
            variant} of the regularizer of that name, its q-logarithm stands in the place of log pi.
    loss: a part of kind `regression` ("mse", "clipped" for PPO, "expectile" for IQL, "chi_square" and
        "total_variation" for f-DVL [123], "gumbel" for XQL, ...), whose hyper-parameters stand beside these.
    aggregate: how heads are joined, "min", "mean" or "first".
    source: only rows of this `source` count, and the loss is their mean (ReCOIL); None: all.
    per_turn: the value predicted at the first decision of a turn serves all its decisions, and only it is trained; a
        turn counts as often as it has decisions. Reads `turn`, needs whole rows, goes with the advantage `turn_gae`.
    layer_norm, dropout: of the network's hidden layers, where the domain builds one for the critic alone (control).
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
        proximal: Mapping[str, float] | None = None,
        tsallis: Mapping[str, Any] | None = None,
        aggregate: str = "min",
        source: int | None = None,
        per_turn: bool = False,
        layer_norm: bool = False,
        dropout: float = 0.0,
        half: bool = False,
        coef: float = 1.0,
        **regression: Any,
    ) -> None:
        check_aggregate(aggregate, "aggregate of critic 'v'")
        if target not in TARGETS:
            raise unknown("target of critic 'v'", str(target), TARGETS)
        if (proximal or tsallis) and target != "soft_q":
            raise UserError(f"critic 'v': {'proximal' if proximal else 'tsallis'} belongs to target=soft_q")
        self.proximal = dict(proximal or {})
        self.negative_entropy = make("regularizer", "tsallis", to=None, **tsallis) if tsallis else None
        self.regression = make_regression("v", OPTIONS, loss, regression)
        self.regressed_on, self.aggregate, self.half, self.coef = target, aggregate, half, coef
        self.source, self.layer_norm, self.dropout, self.per_turn = source, layer_norm, dropout, per_turn

    @property
    def rowwise(self) -> bool:
        """Whether rows must stay whole in the update."""
        return self.per_turn

    @property
    def reads(self) -> tuple[str, ...]:
        """Fields this needs."""
        rows = (*(() if self.source is None else ("source",)), *(("turn",) if self.per_turn else ()))
        anchors = (f"sample_anchor_logp.{name}" for name in self.proximal)
        tsallis = self.negative_entropy.reads if self.negative_entropy else ()
        return ("value_pred", *TARGETS[self.regressed_on], *anchors, *tsallis, *self.regression.reads, *rows)

    def requirements(self) -> Requirements:
        """A state value; critics, where the target needs them, are asked for by a `q` critic."""
        return Requirements(value=ValueSpec(layer_norm=self.layer_norm, dropout=self.dropout))

    def target(self, batch: Batch) -> Tensor:
        """The regression target y, [N, T], detached."""
        if self.regressed_on == "returns":
            target: Tensor = batch.returns
        elif self.regressed_on == "q_data":
            target = over_heads(batch.target_q_data, self.aggregate)
        else:
            surprise = self.negative_entropy(batch) if self.negative_entropy else batch.sample_logp
            target = over_heads(batch.q, self.aggregate) - batch.temperature * surprise
            for name, coef in self.proximal.items():
                target = target - coef * (batch.sample_logp - batch.sample_anchor_logp[name])
        return target.detach()

    def loss(self, batch: Batch) -> Tensor:
        """The loss per decision, [N, T], not reduced."""
        counted = batch if self.source is None else of_source(batch, self.source)
        predicted: Tensor = batch.value_pred
        if self.per_turn:
            turns = Units(batch.turn, batch.mask)
            predicted = turns.of_first(predicted)
            if "value" in counted:
                counted = counted.replace(value=turns.of_first(counted.value))
        loss = self.regression(predicted, self.target(batch), counted)
        if self.source is not None:
            loss = loss * share_of(batch, self.source)
        return 0.5 * loss if self.half else loss
