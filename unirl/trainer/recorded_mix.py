"""Recorded data of two kinds in every batch: a mixture of behaviour, and an expert's."""

from collections.abc import Mapping
from typing import Any

import torch

from unirl.batch import MIXTURE, Batch
from unirl.batch import RECORDED as EXPERT
from unirl.domain import Domain
from unirl.errors import UserError
from unirl.registry import register
from unirl.trainer.sources import Offline


@register("source", "expert_mix")
class ExpertMix:
    """Imitation offline: `fraction` of every batch are an expert's rows (`source` 2), the others a mixture's (3).

    The mixture is the task's recorded data (`task.data`); the expert's is a second recording (`task.expert_data`; where
    there is none, the task's scripted expert), presented with the mixture's statistics. `data`: how a method wants both
    presented; with `{rewards: false}` a file may lack rewards. Raises `UserError` unless 0 < fraction < 1 and where
    a part of the batch would be empty.
    """

    like = "offline"

    def __init__(self, fraction: float = 0.5, batch: int = 256, data: Mapping[str, Any] | None = None) -> None:
        if not 0 < fraction < 1:
            raise UserError(f"source.fraction is {fraction}; it lies between 0 and 1")
        expert = round(batch * fraction)
        self._mixture, self._expert = Offline(batch - expert, data), Offline(expert, {**(data or {}), "expert": True})

    @property
    def samples(self) -> int:
        """Decisions trained on so far."""
        return self._mixture.samples + self._expert.samples

    def start(self, domain: Domain, seed: int) -> None:
        """Open the mixture, then the expert's data, which is seen through the mixture's statistics."""
        self._mixture.start(domain, seed)
        self._expert.start(domain, seed)

    def next(self) -> Batch:
        """Expert rows after the mixture's."""
        mixture, expert = self._mixture.next(), self._expert.next()
        mixture = mixture.replace(source=torch.full((len(mixture),), MIXTURE))
        expert = expert.replace(source=torch.full((len(expert),), EXPERT))
        return Batch.cat([mixture, expert])

    def state_dict(self) -> dict[str, Any]:
        """Both states."""
        return {"mixture": self._mixture.state_dict(), "expert": self._expert.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self._mixture.load_state_dict(state["mixture"])
        self._expert.load_state_dict(state["expert"])
