"""A ring of transitions."""

from collections.abc import Mapping
from typing import Any

import torch
from tensordict import TensorDict, TensorDictBase

from unirl.batch import Batch
from unirl.errors import UserError

STORED = ("mask", "inputs", "reward", "terminated", "truncated", "reference_action", "behavior_logp")


class Replay:
    """The last `capacity` decisions, allocated once, sampled uniformly with replacement.

    A batch given to `add` is cut into single decisions; `sample(n)` returns n rows of one decision each, [n, 1].
    """

    def __init__(self, capacity: int, seed: int) -> None:
        if capacity < 1:
            raise UserError(f"replay capacity is {capacity}; it must be at least 1")
        self.capacity = capacity
        self._generator = torch.Generator().manual_seed(seed)
        self._store: TensorDictBase | None = None
        self._size = 0
        self._cursor = 0

    def __len__(self) -> int:
        return self._size

    def add(self, batch: Batch) -> None:
        """Store every masked decision of `batch`; the oldest give way."""
        rows = batch.decisions().detach().rows
        rows = rows.select(*(name for name in STORED if name in rows.keys()))
        count = rows.batch_size[0]
        if self._store is None:
            self._store = _allocate(rows, self.capacity)
        if count > self.capacity:
            rows, count = rows[-self.capacity :], self.capacity
        at = (torch.arange(count) + self._cursor) % self.capacity
        for key, leaf in rows.items(True, True):
            self._store.get(key)[at] = leaf
        self._cursor = (self._cursor + count) % self.capacity
        self._size = min(self._size + count, self.capacity)

    def sample(self, n: int) -> Batch:
        """`n` stored decisions, uniformly."""
        if self._store is None:
            raise UserError("the replay buffer is empty; method.source.warmup must be at least 1")
        at = torch.randint(self._size, (n,), generator=self._generator)
        rows = TensorDict({}, [n])
        for key, leaf in self._store.items(True, True):
            rows.set(key, leaf[at])
        return Batch.of_rows(rows)

    def state_dict(self) -> dict[str, Any]:
        """What is stored, the cursor and the generator."""
        stored = {} if self._store is None else self._store[: self._size].to_dict()
        return {"store": stored, "cursor": self._cursor, "size": self._size, "generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the same sequence of draws over the same decisions."""
        self._generator.set_state(state["generator"])
        self._cursor, self._size = int(state["cursor"]), int(state["size"])
        if self._size:
            rows = TensorDict(dict(state["store"]), [self._size])
            self._store = _allocate(rows, self.capacity)
            for key, leaf in rows.items(True, True):
                self._store.get(key)[: self._size] = leaf


def _allocate(rows: TensorDictBase, capacity: int) -> TensorDictBase:
    store = TensorDict({}, [capacity])
    for key, leaf in rows.items(True, True):
        store.set(key, torch.zeros((capacity, *leaf.shape[1:]), dtype=leaf.dtype))
    return store
