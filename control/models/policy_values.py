"""The critics' values of the policy's own actions, to train the critics with."""

from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from unirl.control.critics import estimate
from unirl.control.distributions import Categorical, Distribution
from unirl.control.models.auxiliary import AuxiliaryModel
from unirl.errors import UserError
from unirl.registry import register

if TYPE_CHECKING:
    from unirl.control.score import Scorer


@register("model", "policy_values")
class PolicyValues(AuxiliaryModel):
    """What the critics say of a fresh action of the policy, for critics that are to be lowered there.

    `model.policy_q` [N, T, heads], differentiable in the critics' weights and not in the action, and
    `model.policy_logp` [N, T], that action's log-density, a constant; `model.policy_next_q` and
    `model.policy_next_logp` are the same at the next state, 0 after a termination. Of choices, all are exact
    expectations over the policy. Nothing of it is trained. Raises `UserError` without an action-value critic.
    """

    fields: ClassVar = {
        "policy_q": "values",
        "policy_logp": "logp",
        "policy_next_q": "next_values",
        "policy_next_logp": "next_logp",
    }

    def values(self, scorer: "Scorer") -> Tensor:
        """Q_k(s, a), [N, T, heads]."""
        return self._here(scorer)[0]

    def logp(self, scorer: "Scorer") -> Tensor:
        """The log-density of a, [N, T]."""
        return self._here(scorer)[1]

    def next_values(self, scorer: "Scorer") -> Tensor:
        """Q_k(s', a'), [N, T, heads]."""
        return self._following(scorer)[0].masked_fill(scorer.batch.terminated.unsqueeze(-1), 0.0)

    def next_logp(self, scorer: "Scorer") -> Tensor:
        """The log-density of a', [N, T]."""
        return self._following(scorer)[1].masked_fill(scorer.batch.terminated, 0.0)

    def _here(self, scorer: "Scorer") -> tuple[Tensor, Tensor]:
        return scorer.once("policy_values", lambda: _valued(scorer, scorer.observation, scorer.policy))

    def _following(self, scorer: "Scorer") -> tuple[Tensor, Tensor]:
        def valued() -> tuple[Tensor, Tensor]:
            return _valued(scorer, scorer.next_observation, scorer.next_policy)

        return scorer.once("policy_next_values", valued)


def _valued(scorer: "Scorer", observation: Tensor, policy: Distribution) -> tuple[Tensor, Tensor]:
    """The critics' values [N, T, heads] of the policy's action at the observations, and its log-density [N, T]."""
    critic = scorer.domain.q
    if critic is None:
        raise UserError("the policy's actions are valued by an action-value critic; give the method one")
    if isinstance(policy, Categorical):
        expected: Tensor = (policy.probs.detach() * critic(observation)).sum(-1)
        return expected.movedim(0, -1), -policy.entropy().detach()
    with torch.no_grad():
        action, logp, _ = policy.sample(scorer.domain.generator)
    return estimate(critic, scorer.critic_input(observation, action)).mean.movedim(0, -1), logp
