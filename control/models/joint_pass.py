"""Recorded and next actions seen by the critics as one batch."""

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from unirl.control.models.auxiliary import AuxiliaryModel
from unirl.errors import UserError
from unirl.registry import register

if TYPE_CHECKING:
    from unirl.control.score import Scorer


@register("model", "joint_pass")
class JointPass(AuxiliaryModel):
    """The trained critics' values of recorded decisions and of the policy's next ones, from one pass over both.

    `model.joint_q`, `model.joint_next_q` [N, T, heads], differentiable in the critics, and `model.joint_next_logp`
    [N, T] of that next action, a constant. It has no weights of its own. Raises `UserError` for critics of choices.
    """

    fields: ClassVar = {"joint_q": "recorded", "joint_next_q": "following", "joint_next_logp": "following_logp"}

    def recorded(self, scorer: "Scorer") -> Tensor:
        """Q_k(s, a)."""
        return self._values(scorer)[0]

    def following(self, scorer: "Scorer") -> Tensor:
        """Q_k(s', a')."""
        return self._values(scorer)[1]

    def following_logp(self, scorer: "Scorer") -> Tensor:
        """The log-density of a'."""
        return self._next_action(scorer)[1]

    def _next_action(self, scorer: "Scorer") -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            return scorer.next_fresh.action, scorer.next_fresh.logp

    def _values(self, scorer: "Scorer") -> tuple[Tensor, Tensor]:
        return scorer.once("joint_pass", lambda: self._pass(scorer))

    def _pass(self, scorer: "Scorer") -> tuple[Tensor, Tensor]:
        critic = scorer.domain.q
        if critic is None or scorer.domain.actions.discrete:
            raise UserError("model 'joint_pass' needs critics of continuous actions")
        inputs = [
            scorer.critic_input(scorer.observation, scorer.action),
            scorer.critic_input(scorer.next_observation, self._next_action(scorer)[0]),
        ]
        recorded, following = critic(torch.stack(inputs)).movedim(0, -1).unbind(0)
        return recorded, following
