"""A state value of two heads: the return of the reward, and that of the cost."""

from torch import Tensor

from unirl.batch import Batch
from unirl.domain import Requirements, ValueSpec
from unirl.registry import register


@register("critic", "v_with_cost")
class VWithCost:
    r"""Regression of two state values on the returns of reward and cost.

    .. math:: \ell = (V_0(s) - R)^2 + (V_1(s) - R_{cost})^2

    Reads `value_pred` [2, N, T], `returns`, `cost_returns` [N, T]; gives [N, T]. `coef`: factor on the loss. Source:
    CPO (Achiam et al. 2017), with both values in one network.
    """

    loss_name = "value"
    reads = ("value_pred", "returns", "cost_returns")

    def __init__(self, *, coef: float = 1.0) -> None:
        self.coef = coef

    def requirements(self) -> Requirements:
        """A state value of two heads."""
        return Requirements(value=ValueSpec(heads=2))

    def loss(self, batch: Batch) -> Tensor:
        """The squared errors summed, [N, T], not reduced."""
        reward, cost = batch.value_pred
        loss: Tensor = (reward - batch.returns.detach()).square() + (cost - batch.cost_returns.detach()).square()
        return loss
