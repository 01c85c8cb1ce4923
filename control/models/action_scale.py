"""What a policy of kind `symphony` says about the strength of its next action, for other parts to weigh."""

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from unirl.control.models.auxiliary import AuxiliaryModel
from unirl.control.symphony import Scaled
from unirl.errors import UserError
from unirl.registry import register

if TYPE_CHECKING:
    from unirl.control.score import Scorer


@register("model", "action_scale")
class ActionScale(AuxiliaryModel):
    """`model.next_scale` and `model.next_damping` [N, T, A]: S and B of the policy at the next state, differentiable.

    It has no parameters of its own. Raises `UserError` for any other kind of policy. Source: Symphony [177].
    """

    fields: ClassVar = {"next_scale": "next_scale", "next_damping": "next_damping"}

    def next_scale(self, scorer: "Scorer") -> Tensor:
        """S at the next state."""
        return _scaled(scorer).scale

    def next_damping(self, scorer: "Scorer") -> Tensor:
        """B at the next state."""
        return _scaled(scorer).damping


def _scaled(scorer: "Scorer") -> Scaled:
    policy = scorer.next_policy
    if not isinstance(policy, Scaled):
        raise UserError("the strength of actions is known for policies of kind symphony; set method.policy=symphony")
    return policy
