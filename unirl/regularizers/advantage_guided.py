"""Staying near whichever is better: the recorded action or what a model of good behaviour proposes (A2PR)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from unirl.batch import Batch
from unirl.critics.heads import over_heads
from unirl.registry import register


@register("regularizer", "advantage_guided")
@dataclass(frozen=True)
class AdvantageGuided:
    r"""Distance to the better of two actions, where either is better than the state's value.

    .. math:: R_t = \frac{M_t}{\dim A} \|a_\theta(s_t) - \bar a_t\|^2, \quad
        M = 1[A(\tilde a) \geq 0 \mathrm{\ or\ } A(a) > 0]

    .. math:: \bar a = \tilde a \mathrm{\ if\ } A(\tilde a) \geq A(a) \mathrm{\ else\ } a

    a is the recorded action, a~ the policy's own action encoded and decoded by the model `behavior_vae` (which a critic
    of that name asks for and trains), A(.) = Q_1(s, .) - V(s). In the authors' code the gradient also runs through a~,
    because it is made from the policy's action; `detach` makes it a constant.

    Reads `policy_action`, `reference_action`, `model.vae_action` [N, T, A], `model.vae_action_q` [N, T, heads],
    `q_data`, `value_pred`; gives [N, T], no gradient to any critic. Source: A2PR (Liu et al. 2024) [31].
    """

    detach: bool = False
    reads = ("policy_action", "reference_action", "model.vae_action", "model.vae_action_q", "q_data", "value_pred")

    def __call__(self, batch: Batch) -> Tensor:
        """The penalty per decision, [N, T]."""
        value = batch.value_pred.detach()
        recorded = over_heads(batch.q_data, "first").detach() - value
        proposed = batch.model["vae_action_q"][..., 0].detach() - value
        action: Tensor = batch.model["vae_action"]
        action = action.detach() if self.detach else action
        better = torch.where((proposed >= recorded).unsqueeze(-1), action, batch.reference_action.detach())
        distance: Tensor = (batch.policy_action - better).square().mean(-1)
        return torch.where((proposed >= 0) | (recorded > 0), distance, 0)
