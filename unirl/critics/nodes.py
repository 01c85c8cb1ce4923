"""A state-action critic of sorted nodes that shares one backward pass with the policy that it judges."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from unirl.batch import Batch
from unirl.critics.heads import Aggregate, over_heads
from unirl.critics.q import Q
from unirl.domain import QSpec, Requirements
from unirl.registry import register
from unirl.regularizers.swaddling import SCALES, effort


@register("critic", "node_q")
class NodeQ(Q):
    r"""Regression of every node of several critics on one target, made from the same pass as the policy's loss.

    .. math:: y = r + \gamma (1 - \mathrm{terminated})\, \mathrm{sg}\big[\mathrm{agg}_i\, \bar q_i(s', a'_\theta) -
        \mathrm{sw}(s')\big], \qquad \ell = \frac{1}{q} \sum_i L(y - q_i(s, a))

    The target critic's value of the policy's fresh action at s' is scored once and serves twice: the policy follows its
    gradient (objective `temporal_advantage`), this target takes it as a constant. sw is the cost of the action's
    strength (`unirl.regularizers.swaddling`), left out with `cost: false`.

    heads, atoms: 3 critics of 64 nodes; all of them are joined by `target`, "ordered" (`order_weights`).
    loss: "rectified_huber" by default; any part of kind `regression`.
    gamma, tau: .99 and .001. layer_norm: of the critics' hidden layers.

    Reads `q_data`, `next_target_q_pred` [heads * atoms, N, T], `reward`, `terminated` and, with the cost,
    `model.next_scale`, `model.next_damping` [N, T, A]. Trains with `update.together`. Source: Symphony [177].
    """

    def __init__(
        self,
        *,
        heads: int = 3,
        atoms: int = 64,
        loss: str = "rectified_huber",
        target: Aggregate = "ordered",
        gamma: float = 0.99,
        tau: float = 0.001,
        cost: bool = True,
        layer_norm: bool = True,
        coef: float = 1.0,
        **regression: Any,
    ) -> None:
        networks: dict[str, Any] = {"heads": heads, "tau": tau, "layer_norm": layer_norm}
        super().__init__(loss=loss, target=target, gamma=gamma, coef=coef, **networks, **regression)
        self.atoms, self.cost = atoms, cost

    @property
    def reads(self) -> tuple[str, ...]:
        """Fields this needs."""
        cost = SCALES if self.cost else ()
        return ("q_data", "reward", "terminated", "next_target_q_pred", *cost, *self.regression.reads)

    @property
    def spec(self) -> QSpec:
        """Critics with nodes."""
        return replace(super().spec, atoms=self.atoms)

    def requirements(self) -> Requirements:
        """The nodes, and where the cost is charged what the policy says of its actions' strength."""
        return super().requirements().and_also(Requirements(models={"action_scale": {}} if self.cost else {}))

    def loss(self, batch: Batch) -> Tensor:
        """The regression's loss, the mean over nodes, [N, T], not reduced."""
        loss = self.regression(batch.q_data, self.target(batch), batch)
        return loss if loss.dim() == 2 else loss.mean(0)

    def _next(self, batch: Batch) -> Tensor:
        value = over_heads(batch.next_target_q_pred, self.aggregate)
        if self.cost:
            value = value - effort(batch.model["next_scale"], batch.model["next_damping"]).mean(-1)
        return value
