"""A dataset of compared rows."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from unirl.batch import Batch


class PairDataset:
    """Rows and which of them were compared.

    `rows`: N responses, trajectories or segments. `pairs` [P, 2]: (first row, second row). `labels` [P]: probability
    that the first is preferred. `sample(n)` draws n pairs with replacement and gives a batch of just their rows.
    """

    def __init__(self, rows: Batch, pairs: Tensor, labels: Tensor, seed: int) -> None:
        if pairs.shape[0] != labels.shape[0]:
            raise ValueError(f"{pairs.shape[0]} pairs but {labels.shape[0]} labels")
        self.rows = rows.replace(pairs=pairs, pair_label=labels)
        self._generator = torch.Generator().manual_seed(seed)

    def __len__(self) -> int:
        return len(self.rows.pairs)

    def sample(self, n: int) -> Batch:
        """A batch that compares `n` pairs."""
        return self.rows.of_pairs(torch.randint(len(self), (n,), generator=self._generator))

    def state_dict(self) -> dict[str, Any]:
        """The generator: the rows are made again from the same files or seed."""
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the same sequence of draws."""
        self._generator.set_state(state["generator"])
