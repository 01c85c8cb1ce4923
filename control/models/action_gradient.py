"""How critics change with the action."""

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from unirl.control.models.auxiliary import AuxiliaryModel
from unirl.control.networks import HALF_ROWS, MLP
from unirl.errors import UserError
from unirl.registry import register

if TYPE_CHECKING:
    from unirl.control.score import Scorer


@register("model", "action_gradient")
class ActionGradient(AuxiliaryModel):
    """Gradients of every critic in the recorded action, differentiable in the critics; it has no weights of its own.

    `model.q_action_gradient` [N, T, heads, A]. Raises `UserError` for critics of choices and for those that predict
    more than one number per head.
    """

    fields: ClassVar = {"q_action_gradient": "gradient"}

    def gradient(self, scorer: "Scorer") -> Tensor:
        """dQ_k / da for every head k."""
        critic = scorer.domain.q
        if critic is None or scorer.domain.actions.discrete or critic.weights[-1].shape[-1] != 1:
            raise UserError("model 'action_gradient' needs critics of continuous actions with one number per head")
        inputs = torch.cat([scorer.observation, scorer.action], -1).detach()
        shape, size = scorer.action.shape[:-1], scorer.action.shape[-1]
        of_last_inputs = slopes if critic.piecewise_linear else autograd_slopes
        found = of_last_inputs(critic, inputs.reshape(-1, inputs.shape[-1]), size)
        return found.transpose(0, 1).reshape(*shape, critic.heads or 1, size)


def slopes(critic: MLP, inputs: Tensor, count: int) -> Tensor:
    """The gradients of a relu ensemble's outputs in the last `count` of its inputs, [B, I] -> [heads, B, count].

    Which units are on does not change with a small step, so a gradient is the product of the weights between those that
    are, from the output down. Written out because autograd's second pass would also send zeros through the whole
    network. In bfloat16 where the network's other passes are.
    """
    half = critic.half_precision and len(inputs) >= HALF_ROWS
    layers = [(w.bfloat16(), b.bfloat16()) if half else (w, b) for w, b in critic.layers]
    on = []  # 1 where a unit is on, else 0
    with torch.no_grad():
        hidden = inputs.to(layers[0][0].dtype).expand(critic.heads or 1, -1, -1)
        for weight, bias in layers[:-1]:
            hidden = torch.baddbmm(bias, hidden, weight).relu_()
            on.append(hidden.sign())
    slope = layers[-1][0].transpose(-1, -2)
    for (weight, _), active in zip(reversed(layers[1:-1]), reversed(on[1:]), strict=True):
        slope = (slope * active) @ weight.transpose(-1, -2)
    moved = layers[0][0][:, -count:]
    return torch.matmul(slope * on[0], moved.transpose(-1, -2)).float()


def autograd_slopes(critic: MLP, inputs: Tensor, count: int) -> Tensor:
    """The same of any network, by two passes of autograd in float32."""
    seen, moved = inputs.expand(critic.heads or 1, -1, -1).tensor_split([-count], -1)
    moved = moved.clone().requires_grad_()
    with torch.enable_grad():
        values = critic.each_head(torch.cat([seen, moved], -1))
        (found,) = torch.autograd.grad(values.sum(), moved, create_graph=True)
    return found
