"""Actions that might be taken instead of the recorded one, and what the critics say of them."""

import math
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, ClassVar, NamedTuple

import torch
from torch import Tensor

from unirl.control.critics import estimate
from unirl.control.distributions import Categorical, Distribution
from unirl.control.models.auxiliary import AuxiliaryModel
from unirl.errors import UserError
from unirl.registry import register

if TYPE_CHECKING:
    from unirl.control.score import Scorer


class Candidates(NamedTuple):
    """Values [heads, M, N, T], differentiable in the critic; log-density and whether the policy made it, [M, N, T]."""

    values: Tensor
    logp: Tensor
    own: Tensor


@register("model", "candidate_actions")
class CandidateActions(AuxiliaryModel):
    """Uniform actions, the policy's actions here and its actions at the next state, `each` of them; all at this state.

    `model.candidate_q` [N, T, M, heads] is the critics' value, differentiable in their weights; `model.candidate_logp`
    [N, T, M] the log-density that a candidate was drawn from; `model.candidate_own` [N, T, M] is 1 for those of the
    policy. Of choices, every one is a candidate (M = A) with log-density -log A, as if all were drawn once.

    Nothing of it is trained. Raises `UserError` without an action-value critic. Source: CQL (Kumar et al. 2020).
    """

    fields: ClassVar[Mapping[str, str]] = {
        "candidate_q": "candidate_q",
        "candidate_logp": "candidate_logp",
        "candidate_own": "candidate_own",
    }

    def __init__(self, *, each: int = 10) -> None:
        super().__init__()
        self.each = each

    def candidate_q(self, scorer: "Scorer") -> Tensor:
        """Values, [N, T, M, heads]."""
        return self._candidates(scorer).values.movedim((0, 1), (-1, -2))

    def candidate_logp(self, scorer: "Scorer") -> Tensor:
        """Log-densities, [N, T, M]."""
        return self._candidates(scorer).logp.movedim(0, -1)

    def candidate_own(self, scorer: "Scorer") -> Tensor:
        """Whose they are, [N, T, M]."""
        return self._candidates(scorer).own.movedim(0, -1)

    def _candidates(self, scorer: "Scorer") -> Candidates:
        return scorer.once("candidates", partial(self._valued, scorer))

    def _valued(self, scorer: "Scorer") -> Candidates:
        critic = scorer.domain.q
        if critic is None:
            raise UserError(
                "candidate actions are valued by an action-value critic; give the method one, such as {name: q}"
            )
        if isinstance(scorer.policy, Categorical):
            values: Tensor = critic(scorer.observation).movedim(-1, 1)
            logp = torch.full_like(values[0], -math.log(values.shape[1]))
            return Candidates(values, logp, torch.ones_like(logp))
        actions, logp = self._drawn(scorer)
        states = scorer.observation.expand(len(actions), *scorer.observation.shape)
        own = torch.ones_like(logp)
        own[: self.each] = 0
        return Candidates(estimate(critic, scorer.critic_input(states, actions)).mean, logp, own)

    @torch.no_grad()
    def _drawn(self, scorer: "Scorer") -> tuple[Tensor, Tensor]:
        """Actions [3 each, N, T, A] and their log-densities [3 each, N, T]."""
        like, generator = scorer.action, scorer.domain.generator
        uniform = torch.rand((self.each, *like.shape), generator=generator, device=like.device) * 2 - 1
        density = torch.full(uniform.shape[:-1], -like.shape[-1] * math.log(2.0), device=like.device)
        here, next_state = (self._of(policy, generator) for policy in (scorer.policy, scorer.next_policy))
        actions = torch.cat([uniform, here[0], next_state[0]])
        return actions, torch.cat([density, here[1], next_state[1]])

    def _of(self, policy: Distribution, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """`each` samples of a policy."""
        drawn = [policy.sample(generator) for _ in range(self.each)]
        return torch.stack([sample.action for sample in drawn]), torch.stack([sample.logp for sample in drawn])
