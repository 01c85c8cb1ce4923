"""Where batches come from: fresh roll-outs, replay, a dataset, a mix, or recorded pairs.

A source is registered under kind `source`, built from a method's `source` section and started with a domain and a
seed. `next()` gives the batch for one iteration; `samples` counts the decisions drawn from the world so far (for
recorded data: the decisions trained on).
"""

from collections.abc import Mapping
from typing import Any, Protocol

import torch

from unirl.batch import POLICY, RECORDED, Batch
from unirl.domain import Dataset, Domain, Opponent
from unirl.errors import UserError
from unirl.memory.replay import Replay
from unirl.registry import make, register


class Source(Protocol):
    """One batch per iteration."""

    samples: int

    def start(self, domain: Domain, seed: int) -> None:
        """Called once, before the first `next`."""
        ...

    def next(self) -> Batch:
        """The batch of the next iteration."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


@register("source", "online")
class Online:
    """Fresh roll-outs of the current policy.

    `rows`: episodes or responses per iteration (`unit="episode"`), or decisions (`unit="segment"`, control).
    `group_size`: rows that share a start. `opponent`: a second sampler in each group (Nash-MD). `history`: how many
    of the latest roll-outs an iteration trains on (1: on-policy).
    """

    def __init__(
        self,
        rows: int = 64,
        unit: str = "episode",
        group_size: int = 1,
        opponent: Mapping[str, Any] | None = None,
        history: int = 1,
    ) -> None:
        if unit not in ("episode", "segment"):
            raise UserError(f"source.unit is '{unit}'; it is 'episode' or 'segment'")
        if group_size < 1 or rows % group_size:
            raise UserError(f"source.rows ({rows}) must be a multiple of source.group_size ({group_size})")
        self.rows, self.unit, self.group_size, self.history = rows, unit, group_size, history
        self.opponent = Opponent(**opponent) if opponent else None
        self.samples = 0
        self._recent: list[Batch] = []
        self._domain: Domain

    def start(self, domain: Domain, seed: int) -> None:
        """Roll-outs draw from the domain's own generators: the seed is not needed."""
        self._domain = domain

    def next(self) -> Batch:
        """Roll out, and join the latest `history` roll-outs."""
        batch = self._domain.rollout(self.rows, group_size=self.group_size, unit=self.unit, opponent=self.opponent)
        self.samples += int(batch.mask.sum())
        if self.history == 1:
            return batch
        self._recent = [*self._recent[-(self.history - 1) :], batch]
        return Batch.cat(self._recent)

    def state_dict(self) -> dict[str, Any]:
        """The count and the roll-outs that are still trained on."""
        return {"samples": self.samples, "recent": [batch.fields() for batch in self._recent]}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.samples = int(state["samples"])
        self._recent = [Batch(**rows) for rows in state["recent"]]


@register("source", "replay")
class ReplaySource:
    """Off-policy learning: step the world, store, train on uniform draws.

    `warmup`: decisions taken uniformly at random before learning. `steps`: decisions between rounds of updates;
    `updates`: batches of `batch` decisions per round. `memory`: another part of kind `memory` in place of uniform
    draws, such as `{name: fading}`.
    """

    def __init__(
        self,
        batch: int = 256,
        capacity: int = 1_000_000,
        warmup: int = 1000,
        steps: int = 1,
        updates: int = 1,
        memory: Mapping[str, Any] | None = None,
    ) -> None:
        if min(batch, steps, updates) < 1 or warmup < 1:
            raise UserError("source.batch, source.steps, source.updates and source.warmup must be at least 1")
        if memory is not None and "name" not in memory:
            raise UserError(f"source.memory is {dict(memory)}; give it as {{name: fading, ...}}")
        self.batch, self.capacity, self.warmup = batch, capacity, warmup
        self.steps, self.updates = steps, updates
        self.memory = dict(memory or {})
        self.samples = 0
        self._due = 0
        self._domain: Domain
        self._replay: Replay

    def start(self, domain: Domain, seed: int) -> None:
        """Allocate the replay buffer's generator."""
        self._domain, options = domain, {key: value for key, value in self.memory.items() if key != "name"}
        if self.memory:
            self._replay = make("memory", str(self.memory["name"]), capacity=self.capacity, seed=seed, **options)
        else:
            self._replay = Replay(self.capacity, seed)

    def next(self) -> Batch:
        """Step the world if a round of updates is over, then draw from the buffer."""
        if self.samples == 0:
            self._step(self.warmup, uniform=True)
            self._due = self.updates
        elif self._due == 0:
            self._step(self.steps)
            self._due = self.updates
        self._due -= 1
        return self._replay.sample(self.batch)

    def _step(self, decisions: int, uniform: bool = False) -> None:
        batch = self._domain.rollout(decisions, unit="segment", uniform=uniform)
        self._replay.add(batch)
        self.samples += batch.mask.numel()

    def state_dict(self) -> dict[str, Any]:
        """The buffer and where in a round of updates we are."""
        return {"samples": self.samples, "due": self._due, "replay": self._replay.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.samples, self._due = int(state["samples"]), int(state["due"])
        self._replay.load_state_dict(state["replay"])


class _Recorded:
    """Draws of `batch` rows or pairs from a dataset that the domain opens."""

    def __init__(self, batch: int = 256) -> None:
        if batch < 1:
            raise UserError(f"source.batch is {batch}; it must be at least 1")
        self.batch = batch
        self.samples = 0
        self._data: Dataset

    def next(self) -> Batch:
        """The next draw."""
        batch = self._data.sample(self.batch)
        self.samples += int(batch.mask.sum())
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The count and the dataset's generator."""
        return {"samples": self.samples, "data": self._data.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.samples = int(state["samples"])
        self._data.load_state_dict(state["data"])


@register("source", "offline")
class Offline(_Recorded):
    """Recorded decisions or demonstrations, `batch` rows at a time.

    `data`: how the method wants them presented, e.g. `{normalize_observation: true}` (TD3+BC); the task's own options
    go before.
    """

    def __init__(self, batch: int = 256, data: Mapping[str, Any] | None = None) -> None:
        super().__init__(batch)
        self._options = dict(data or {})

    def start(self, domain: Domain, seed: int) -> None:
        """Open the task's dataset."""
        self._data = domain.dataset(self._options)


@register("source", "preference")
class Preference(_Recorded):
    """Recorded pairs, `batch` pairs at a time."""

    def start(self, domain: Domain, seed: int) -> None:
        """Open the task's pairs."""
        self._data = domain.preferences()


@register("source", "hybrid")
class Hybrid:
    """Replay and recorded data in every batch: `fraction` of the rows are recorded (their `source` is 2)."""

    def __init__(
        self, fraction: float = 0.5, batch: int = 256, data: Mapping[str, Any] | None = None, **replay: Any
    ) -> None:
        if not 0 < fraction < 1:
            raise UserError(f"source.fraction is {fraction}; it lies between 0 and 1")
        recorded = round(batch * fraction)
        self._offline = Offline(recorded, data)
        self._replay = ReplaySource(batch - recorded, **replay)

    @property
    def samples(self) -> int:
        """Decisions taken in the world."""
        return self._replay.samples

    def start(self, domain: Domain, seed: int) -> None:
        """Start both."""
        self._offline.start(domain, seed)
        self._replay.start(domain, seed)

    def next(self) -> Batch:
        """Recorded rows after replayed ones."""
        fresh, recorded = self._replay.next(), self._offline.next()
        fresh = fresh.replace(source=torch.full((len(fresh),), POLICY))
        recorded = recorded.replace(source=torch.full((len(recorded),), RECORDED))
        return Batch.cat([fresh, recorded])

    def state_dict(self) -> dict[str, Any]:
        """Both states."""
        return {"offline": self._offline.state_dict(), "replay": self._replay.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self._offline.load_state_dict(state["offline"])
        self._replay.load_state_dict(state["replay"])
