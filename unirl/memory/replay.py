"""A ring of transitions."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

from unirl.batch import Batch, Rows, each_leaf
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
        self._store: Rows = {}
        self._size = 0
        self._cursor = 0

    def __len__(self) -> int:
        return self._size

    def add(self, batch: Batch) -> None:
        """Store every masked decision of `batch`; the oldest give way."""
        single = batch.decisions()
        leaves: Rows = {}
        for name in STORED:
            if name in single:
                value = getattr(single, name)
                leaves[name] = value if isinstance(value, Tensor) else dict(value.items())
        self._put(leaves, len(single))

    def _put(self, leaves: Rows, count: int) -> None:
        if not self._store:
            self._store = _allocate(leaves, self.capacity)
        first = max(count - self.capacity, 0)
        for begin, length, at in self._places(first, count):
            for stored, leaf in _pairs(self._store, leaves):
                stored[at : at + length] = leaf[begin : begin + length].detach()
        self._cursor = (self._cursor + count - first) % self.capacity
        self._size = min(self._size + count, self.capacity)

    def _places(self, first: int, count: int) -> Iterator[tuple[int, int, int]]:
        """(begin in what is added, length, place in the store): two pieces where the ring closes in between."""
        room = min(self.capacity - self._cursor, count - first)
        yield first, room, self._cursor
        if first + room < count:
            yield first + room, count - first - room, 0

    def sample(self, n: int) -> Batch:
        """`n` stored decisions, with replacement."""
        if not self._store:
            raise UserError("the replay buffer is empty; method.source.warmup must be at least 1")
        at = self._drawn(n)
        return Batch(**each_leaf(self._store, lambda leaf: leaf.index_select(0, at)))

    def _drawn(self, n: int) -> Tensor:
        """Which places of the store are sampled, [n]."""
        return torch.randint(self._size, (n,), generator=self._generator)

    def state_dict(self) -> dict[str, Any]:
        """What is stored, the cursor and the generator."""
        stored = each_leaf(self._store, lambda leaf: leaf[: self._size])
        return {"store": stored, "cursor": self._cursor, "size": self._size, "generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the same sequence of draws over the same decisions."""
        self._generator.set_state(state["generator"])
        self._store, self._cursor, self._size = {}, 0, 0
        if state["size"]:
            self._put(dict(state["store"]), int(state["size"]))
        self._cursor = int(state["cursor"])


def _pairs(left: Rows, right: Rows) -> Iterator[tuple[Tensor, Tensor]]:
    for name, leaf in left.items():
        if isinstance(leaf, dict):
            yield from _pairs(leaf, right[name])
        else:
            yield leaf, right[name]


def _allocate(leaves: Rows, capacity: int) -> Rows:
    return each_leaf(leaves, lambda leaf: torch.zeros((capacity, *leaf.shape[1:]), dtype=leaf.dtype))
