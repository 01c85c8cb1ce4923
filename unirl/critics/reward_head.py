"""Regression of the reward itself."""

from typing import Any

from torch import Tensor

from unirl.batch import Batch
from unirl.critics.regressions import make_regression
from unirl.domain import Requirements
from unirl.registry import register

OPTIONS = ("loss", "coef")


@register("critic", "reward_head")
class RewardHead:
    r"""A network of its own predicts the reward of the recorded decision: :math:`\ell = L(r - \hat r(s, a))`.

    `loss`: "rectified_huber" (Symphony's), or any part of kind `regression`; `coef`: factor on the loss. Nothing else
    reads the prediction; in Symphony's code its hidden features also enter the critics.

    Reads `model.reward`, `reward` [N, T], gives [N, T]. Source: Symphony [177].
    """

    loss_name = "reward_head"
    domains = frozenset({"control"})

    def __init__(self, *, loss: str = "rectified_huber", coef: float = 1.0, **regression: Any) -> None:
        self.regression, self.coef = make_regression("reward_head", OPTIONS, loss, regression), coef

    @property
    def reads(self) -> tuple[str, ...]:
        """Fields this needs."""
        return ("model.reward", "reward", *self.regression.reads)

    def requirements(self) -> Requirements:
        """The network that predicts."""
        return Requirements(models={"reward_head": {}})

    def target(self, batch: Batch) -> Tensor:
        """The reward, [N, T]."""
        reward: Tensor = batch.reward
        return reward.detach()

    def loss(self, batch: Batch) -> Tensor:
        """The loss per decision, [N, T], not reduced."""
        return self.regression(batch.model["reward"], self.target(batch), batch)
