"""Who chooses the actions of a roll-out, and with what log-density."""

from collections import deque
from dataclasses import dataclass
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import nn

from unirl.control.distributions import Distribution
from unirl.control.envs import ActionSpace, Array
from unirl.control.history import HistoryPolicy
from unirl.control.policies import distribution


class Choice(NamedTuple):
    """Normalised actions [K, A] (choices: [K]), their log-densities [K], and their values before squashing."""

    action: Array
    logp: Array | None = None
    raw: Array | None = None


class Actor(Protocol):
    """Chooses normalised actions."""

    def __call__(self, observation: Array, rows: Array) -> Choice:
        """Actions for the observations [K, O] of some rows."""
        ...


@dataclass(frozen=True)
class ModeActor:
    """Takes the policy's mode, which has no density to speak of."""

    policy: nn.Module
    device: torch.device

    def __call__(self, observation: Array, rows: Array) -> Choice:
        """The mode at every observation."""
        with torch.inference_mode():
            return Choice(distribution(self.policy, torch.from_numpy(observation).to(self.device)).mode().cpu().numpy())


@dataclass(frozen=True)
class PolicyActor:
    """Samples from the policy and, in the rows marked by `facing`, from policy^(1 - mixture) * anchor^mixture."""

    policy: nn.Module
    generator: torch.Generator
    device: torch.device
    anchor: nn.Module | None = None
    mixture: float = 0.0
    facing: Array | None = None

    def __call__(self, observation: Array, rows: Array) -> Choice:
        """One sample per observation, with its log-density under what it was drawn from."""
        with torch.inference_mode():
            seen = torch.from_numpy(observation).to(self.device)
            own = distribution(self.policy, seen)
            chosen = own.sample(self.generator)
            if self.facing is not None and self.facing[rows].any():
                theirs = torch.from_numpy(self.facing[rows]).to(self.device)
                drawn = self._opponent(seen[theirs]).sample(self.generator)
                for mine, other in zip(chosen, drawn, strict=True):
                    if mine is not None and other is not None:
                        mine[theirs] = other
        return Choice(*(None if each is None else each.cpu().numpy() for each in chosen))  # type: ignore[arg-type]

    def _opponent(self, observation: torch.Tensor) -> Distribution:
        assert self.anchor is not None
        own = distribution(self.policy, observation)
        return own.geometric_mixture(distribution(self.anchor, observation), self.mixture)


@dataclass(frozen=True)
class UniformActor:
    """Uniformly random actions; `squashed` says whether the policy keeps pre-squash values."""

    actions: ActionSpace
    rng: np.random.Generator
    squashed: bool

    def __call__(self, observation: Array, rows: Array) -> Choice:
        """One uniform action per observation."""
        action = self.actions.uniform(len(observation), self.rng)
        logp = np.full(len(action), self.actions.uniform_logp(), dtype=np.float32)
        return Choice(action, logp, np.arctanh(np.clip(action, -1 + 1e-6, 1 - 1e-6)) if self.squashed else None)


class HistoryActor:
    """Acts on the latest decisions of every row: with samples, or without a generator with the mode.

    A row is one episode from its start; what it saw and did is kept here, so every roll-out takes a new actor.
    """

    def __init__(
        self, policy: HistoryPolicy, action_size: int, device: torch.device, generator: torch.Generator | None = None
    ) -> None:
        self._policy, self._device, self._generator = policy, device, generator
        self._size = action_size
        self._past: dict[int, deque[list[Array]]] = {}
        self._taken: dict[int, int] = {}

    def __call__(self, observation: Array, rows: Array) -> Choice:
        """One action per observation [K, O] of the rows [K]."""
        for row, seen in zip(rows.tolist(), observation, strict=True):
            past = self._past.setdefault(row, deque(maxlen=self._policy.context))
            past.append([seen, np.zeros(self._size, dtype=np.float32)])
            self._taken[row] = self._taken.get(row, 0) + 1
        with torch.inference_mode():
            own = self._policy.head(self._latest(rows.tolist()))
            chosen = [own.mode()] if self._generator is None else list(own.sample(self._generator))
        choice = Choice(*(None if each is None else each.cpu().numpy() for each in chosen))  # type: ignore[arg-type]
        for row, action in zip(rows.tolist(), choice.action, strict=True):
            self._past[row][-1][1] = action
        return choice

    def _latest(self, rows: list[int]) -> torch.Tensor:
        """Features of the latest decision of each row, [K, H]."""
        lengths = np.array([len(self._past[row]) for row in rows])
        places = np.arange(len(rows)).repeat(lengths), np.concatenate([np.arange(length) for length in lengths])
        inputs = []
        for which in (0, 1):
            flat = np.stack([decision[which] for row in rows for decision in self._past[row]])
            table = np.zeros((len(rows), lengths.max(), flat.shape[1]), dtype=np.float32)
            table[places] = flat
            inputs.append(torch.from_numpy(table).to(self._device))
        first = np.array([self._taken[row] for row in rows]) - lengths
        time = torch.from_numpy(first[:, None] + np.arange(lengths.max())).to(self._device)
        features = self._policy.encode(inputs[0], inputs[1], time)
        return features[torch.arange(len(rows)), torch.from_numpy(lengths - 1)]
