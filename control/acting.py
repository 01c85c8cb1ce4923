"""Who chooses the actions of a roll-out, and with what log-density."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from unirl.control.distributions import Distribution
from unirl.control.envs import ActionSpace, Array
from unirl.control.policies import distribution


class Actor(Protocol):
    """Chooses normalised actions."""

    def __call__(self, observation: Array, rows: Array) -> tuple[Array, Array | None]:
        """Actions [K, A] (choices: [K]) for the observations [K, O] of some rows, and their pre-squash values."""
        ...

    def log_prob(self, inputs: dict[str, Tensor]) -> Tensor:
        """Log-density [N, T] of the actions it chose, from the recorded tables of all rows."""
        ...


@dataclass(frozen=True)
class ModeActor:
    """Takes the policy's mode."""

    policy: nn.Module
    device: torch.device

    def __call__(self, observation: Array, rows: Array) -> tuple[Array, Array | None]:
        """The mode at every observation."""
        with torch.inference_mode():
            return distribution(self.policy, torch.from_numpy(observation).to(self.device)).mode().cpu().numpy(), None


@dataclass(frozen=True)
class PolicyActor:
    """Samples from the policy and, in the rows marked by `facing`, from policy^(1 - mixture) * anchor^mixture."""

    policy: nn.Module
    generator: torch.Generator
    device: torch.device
    anchor: nn.Module | None = None
    mixture: float = 0.0
    facing: Array | None = None

    def __call__(self, observation: Array, rows: Array) -> tuple[Array, Array | None]:
        """One sample per observation."""
        with torch.inference_mode():
            seen = torch.from_numpy(observation).to(self.device)
            chosen = distribution(self.policy, seen).sample(self.generator)
            opposing = None if self.facing is None else torch.from_numpy(self.facing[rows]).to(self.device)
            if opposing is not None and bool(opposing.any()):
                theirs = self._opponent(seen[opposing]).sample(self.generator)
                chosen.action[opposing] = theirs.action
                if chosen.raw is not None and theirs.raw is not None:
                    chosen.raw[opposing] = theirs.raw
        return chosen.action.cpu().numpy(), None if chosen.raw is None else chosen.raw.cpu().numpy()

    @torch.no_grad()
    def log_prob(self, inputs: dict[str, Tensor]) -> Tensor:
        """Log-density under the policy, or under the mixture in the opponent's rows."""
        observation, action, raw = inputs["observation"], inputs["action"], inputs.get("raw_action")
        logp = distribution(self.policy, observation).log_prob(action, raw)
        if self.facing is None or not self.facing.any():
            return logp
        theirs = self._opponent(observation).log_prob(action, raw)
        return torch.where(torch.from_numpy(self.facing).to(logp.device)[:, None], theirs, logp)

    def _opponent(self, observation: Tensor) -> Distribution:
        assert self.anchor is not None
        own = distribution(self.policy, observation)
        return own.geometric_mixture(distribution(self.anchor, observation), self.mixture)


@dataclass(frozen=True)
class UniformActor:
    """Uniformly random actions; `squashed` says whether the policy keeps pre-squash values."""

    actions: ActionSpace
    rng: np.random.Generator
    squashed: bool

    def __call__(self, observation: Array, rows: Array) -> tuple[Array, Array | None]:
        """One uniform action per observation."""
        action = self.actions.uniform(len(observation), self.rng)
        return action, np.arctanh(np.clip(action, -1 + 1e-6, 1 - 1e-6)) if self.squashed else None

    def log_prob(self, inputs: dict[str, Tensor]) -> Tensor:
        """The same density everywhere."""
        shape = inputs["observation"].shape[:2]
        return torch.full(shape, self.actions.uniform_logp(), device=inputs["observation"].device)
