"""Keeping an ensemble of critics diverse."""

from torch import Tensor
from torch.nn import functional as F

from unirl.batch import Batch
from unirl.domain import Requirements
from unirl.registry import register


@register("critic", "diversity")
class Diversity:
    r"""Pushes apart the directions in which critics rise with the action, at recorded actions.

    .. math:: \ell = \frac{\eta}{K - 1} \sum_{i \ne j} \frac{\nabla_a Q_i \cdot \nabla_a Q_j}
        {\|\nabla_a Q_i\| \|\nabla_a Q_j\|}

    Critics that all rise the same way agree outside the data too, and their minimum is no caution; diverse ones are as
    cautious as a much larger ensemble. It stands beside the temporal-difference loss of another critic part.

    coef: eta, 1 (the paper: 1 to 5 on MuJoCo, beside squared errors without a factor 1/2).

    Reads `model.q_action_gradient` [N, T, heads, A], gives [N, T], not reduced; a second derivative of the critics is
    taken. Source: EDAC (An et al. 2021).
    """

    loss_name = "q"
    reads = ("model.q_action_gradient",)

    def __init__(self, *, coef: float = 1.0) -> None:
        self.coef = coef

    def requirements(self) -> Requirements:
        """The gradients; the critics are asked for by another part."""
        return Requirements(models={"action_gradient": {}})

    def loss(self, batch: Batch) -> Tensor:
        """Sum of cosines over ordered pairs of heads, [N, T], not reduced."""
        directions = F.normalize(batch.model["q_action_gradient"], dim=-1, eps=1e-10)
        heads = directions.shape[-2]
        own = directions.square().sum((-2, -1))  # heads, less those without any slope
        similarity: Tensor = directions.sum(-2).square().sum(-1) - own
        return similarity / max(heads - 1, 1)
