"""How critics change with the action."""

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from unirl.control.models.auxiliary import AuxiliaryModel
from unirl.errors import UserError
from unirl.registry import register

if TYPE_CHECKING:
    from unirl.control.score import Scorer


@register("model", "action_gradient")
class ActionGradient(AuxiliaryModel):
    """Gradients of every critic in the recorded action, differentiable in the critics; it has no weights of its own.

    `model.q_action_gradient` [N, T, heads, A]. The pass is made in float32, which can be differentiated twice. Raises
    `UserError` for critics of choices and for those that predict more than one number per head.
    """

    fields: ClassVar = {"q_action_gradient": "gradient"}

    def gradient(self, scorer: "Scorer") -> Tensor:
        """dQ_k / da for every head k."""
        critic = scorer.domain.q
        if critic is None or scorer.domain.actions.discrete or critic.weights[-1].shape[-1] != 1:
            raise UserError("model 'action_gradient' needs critics of continuous actions with one number per head")
        observation, action = scorer.observation, scorer.action
        heads, size = critic.heads or 1, action.shape[-1]
        own = action.reshape(-1, size).expand(heads, -1, -1).detach().requires_grad_()
        seen = observation.reshape(-1, observation.shape[-1]).expand(heads, -1, -1)
        with torch.enable_grad():
            values = critic.each_head(torch.cat([seen, own], -1))
            (found,) = torch.autograd.grad(values.sum(), own, create_graph=True)
        return found.transpose(0, 1).reshape(*action.shape[:-1], heads, size)
