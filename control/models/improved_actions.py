"""Actions better than the policy's own, by the critic, for the policy to imitate and for targets (PA-RL [221])."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from unirl.control.acting import Choice
from unirl.control.action_improvement import ASCENTS, Improved, improve
from unirl.control.critics import estimate
from unirl.control.envs import Array
from unirl.control.models.auxiliary import AuxiliaryModel
from unirl.control.policies import distribution
from unirl.errors import UserError, unknown
from unirl.registry import register

if TYPE_CHECKING:
    from unirl.control.distributions import Distribution
    from unirl.control.domain import ControlDomain
    from unirl.control.score import Scorer

CHOICES = ("sample", "expectation", "argmax")


@register("model", "improved_actions")
class ImprovedActions(AuxiliaryModel):
    r"""The best of several samples of the policy, each moved up the critic's slope; nothing of it is trained.

    `model.improved_logp` [N, T] is the policy's log-likelihood of the improved actions of the present state,
    differentiable in the policy alone: of one drawn with the softmax of their values (`choice` "sample"), the mean over
    that softmax ("expectation"), or of the best ("argmax"). Targets (`next_q`) use the best of the next state, found
    with the critic in training and valued by the target critic.

    The options are those of the objective `improved_likelihood`, which asks for this model.
    Raises `UserError` for unknown options, numbers out of range and choices in place of continuous actions.
    """

    fields: ClassVar = {"improved_logp": "improved_logp"}

    def __init__(
        self,
        *,
        candidates: int,
        keep: int,
        steps: int,
        step_size: float,
        ascent: str,
        choice: str,
        include_recorded: bool,
        act: bool,
    ) -> None:
        super().__init__()
        if ascent not in ASCENTS:
            raise unknown("ascent of improved actions", str(ascent), ASCENTS)
        if choice not in CHOICES:
            raise unknown("choice of improved actions", str(choice), CHOICES)
        if not 1 <= keep <= candidates or steps < 0 or step_size < 0:
            raise UserError(
                f"improved actions: keep is {keep} of {candidates} candidates, steps {steps}, step_size {step_size}; "
                "give 1 <= keep <= candidates, and no negative numbers"
            )
        self.candidates, self.keep, self.steps, self.step_size = candidates, keep, steps, step_size
        self.ascent, self.choice, self.include_recorded, self.act = ascent, choice, include_recorded, act

    def build(self, domain: "ControlDomain") -> None:
        """Check that actions have slopes."""
        if domain.actions.discrete:
            raise UserError("improved actions are moved along the critic's slope; this environment has choices instead")

    def improved_logp(self, scorer: "Scorer") -> Tensor:
        """The log-density of what shall be imitated, [N, T]."""
        recorded = scorer.action if self.include_recorded else None
        generator = scorer.domain.generator
        found = self.improved(scorer.domain, scorer.observation, scorer.policy, generator, recorded)
        if self.choice == "expectation":
            return (found.weights() * scorer.policy.log_prob(found.actions)).sum(0)
        return scorer.policy.log_prob(found.best() if self.choice == "argmax" else found.draw(generator))

    def next_action(self, scorer: "Scorer") -> Tensor:
        """The best improved action of the next state, [N, T, A]."""
        domain = scorer.domain
        return self.improved(domain, scorer.next_observation, scorer.next_policy, domain.generator).best()

    def actor(self, domain: "ControlDomain", generator: torch.Generator) -> "ImprovedActor | None":
        """With `act`, the best improved action is played."""
        return ImprovedActor(self, domain, generator) if self.act else None

    def improved(
        self,
        domain: "ControlDomain",
        observation: Tensor,
        policy: "Distribution",
        generator: torch.Generator,
        recorded: Tensor | None = None,
    ) -> Improved:
        """What becomes of samples of the policy, under the critic in training; its weights get no gradient."""
        critic = domain.q
        if critic is None:
            raise UserError(
                "improved actions need an action-value critic; give the method one, such as critic: {name: q}"
            )

        def value(actions: Tensor) -> Tensor:
            states = observation.expand(len(actions), *observation.shape)
            return estimate(critic, torch.cat([states, actions], -1), frozen=True).mean

        drawn = [policy.sample(generator).action for _ in range(self.candidates)]
        return improve(
            torch.stack(drawn).clamp(-1.0, 1.0),
            value,
            keep=self.keep,
            steps=self.steps,
            step_size=self.step_size,
            ascent=self.ascent,
            recorded=recorded,
        )


@dataclass(frozen=True)
class ImprovedActor:
    """Plays the best of the policy's improved samples; reported with the policy's own density of it."""

    model: ImprovedActions
    domain: "ControlDomain"
    generator: torch.Generator

    @torch.no_grad()
    def __call__(self, observation: Array, rows: Array) -> Choice:
        """One action for every observation."""
        seen = torch.from_numpy(observation).to(self.domain.device)
        policy = distribution(self.domain.policy, seen)
        best = self.model.improved(self.domain, seen, policy, self.generator).best()
        return Choice(best.cpu().numpy(), policy.log_prob(best).cpu().numpy())
