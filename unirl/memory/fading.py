"""Replay in which recent decisions are drawn alike and old ones fade (Symphony [177])."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from unirl.batch import Batch
from unirl.errors import UserError
from unirl.golden import PHI, plateau
from unirl.memory.replay import Replay
from unirl.registry import register


def fading_weights(age: Tensor) -> Tensor:
    r"""How likely a decision is drawn, up to a factor, at its place in the memory: 0 the oldest, 1 the newest.

    .. math:: w(x) = \exp\big(-(\varphi\,|x - \varphi/2|)^{2e}\big)

    .013 for the oldest, .56 after a quarter, above .97 from the middle on; at most 1.
    """
    return plateau(age, PHI / 2)


@register("memory", "fading")
class FadingReplay(Replay):
    """The last `capacity` decisions, drawn with the weights of `fading_weights`.

    `repeat`: how often the first decisions that are added (the warm-up) are written, so that what follows does not
    count for more than it is: 50 copies of 10,000 fill Symphony's memory. `scale_rewards`: divide all rewards by the
    mean |reward| of those first decisions. `action_bonus`: added to a reward for each unit of the squared norm of its
    action (.1 in Symphony's code, for a humanoid), before the division.

    Raises `UserError` for numbers out of range.
    """

    def __init__(
        self, capacity: int, seed: int, repeat: int = 1, scale_rewards: bool = False, action_bonus: float = 0.0
    ) -> None:
        super().__init__(capacity, seed)
        if repeat < 1:
            raise UserError(f"method.source.memory.repeat is {repeat}; it must be at least 1")
        self.repeat, self.scale_rewards, self.action_bonus = repeat, scale_rewards, action_bonus
        self.reward_scale = 1.0

    def add(self, batch: Batch) -> None:
        """Store every masked decision; the first time `repeat` times, and to measure rewards by."""
        reward = batch.reward
        if self.action_bonus:
            reward = reward + self.action_bonus * batch.inputs["action"].square().sum(-1)
        first = len(self) == 0
        if first and self.scale_rewards:
            self.reward_scale = max(float(reward[batch.mask].abs().mean()), 1e-8)
        batch = batch.replace(reward=reward / self.reward_scale)
        for _ in range(self.repeat if first else 1):
            super().add(batch)

    def _drawn(self, n: int) -> Tensor:
        """Places, the newer the likelier, [n]."""
        oldest = self._cursor if self._size == self.capacity else 0
        return (self._places_by_age(n) + oldest) % self._size

    def _places_by_age(self, n: int) -> Tensor:
        """Places from the oldest, [n]: uniform draws, each kept with the probability of its weight."""
        kept = torch.empty(0, dtype=torch.long)
        while len(kept) < n:  # about two thirds are kept
            drawn = torch.randint(self._size, (2 * n,), generator=self._generator)
            likely = torch.rand(2 * n, generator=self._generator) < fading_weights(drawn / self._size)
            kept = torch.cat([kept, drawn[likely]])
        return kept[:n]

    def state_dict(self) -> dict[str, Any]:
        """What is stored, and the scale of rewards."""
        return {**super().state_dict(), "reward_scale": self.reward_scale}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        super().load_state_dict(state)
        self.reward_scale = float(state["reward_scale"])
