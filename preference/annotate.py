"""Parts that ask an annotator within a method: who is compared, and by whom."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from unirl.batch import Batch
from unirl.errors import UserError, unknown
from unirl.preference.annotators import as_annotator
from unirl.preference.pairs import against_opponent, annotated, random_pairs, tournament
from unirl.registry import register

PAIRINGS = ("tournament", "opponent", "random")


@register("reward", "annotate")
@dataclass(eq=False)
class Annotate:
    """Compares rows of the same group: fills `pairs` and `pair_label`.

    `pairing`: `"tournament"` (all pairs of a group), `"opponent"` (each row of the policy with each of its opponent's;
    needs a source with `opponent`), `"random"` (`per_group` random pairs of each group; with a sampling annotator these
    are independent draws, as the population loss of INPO wants). `annotator` is a name, a configuration or a callable.
    Reads `group`, for `"opponent"` also `source`, and whatever the annotator reads. Raises `UserError` if no two rows
    can be compared. The generators are in `state_dict`.
    """

    annotator: Any = field(default_factory=lambda: {"name": "by_return"})
    pairing: str = "tournament"
    per_group: int = 1
    seed: int = 0

    def __post_init__(self) -> None:
        if self.pairing not in PAIRINGS:
            raise unknown("pairing", self.pairing, PAIRINGS)
        self.annotator = as_annotator(self.annotator)
        self._generator = torch.Generator().manual_seed(self.seed)

    @property
    def reads(self) -> tuple[str, ...]:
        """The grouping, and what the annotator reads."""
        who = ("group", "source") if self.pairing == "opponent" else ("group",)
        return (*who, *getattr(self.annotator, "reads", ()))

    def __call__(self, batch: Batch) -> Batch:
        """The batch with `pairs` and `pair_label`."""
        if self.pairing == "tournament":
            pairs = tournament(batch.group)
        elif self.pairing == "opponent":
            pairs = against_opponent(batch.group, batch.source)
        else:
            pairs = random_pairs(batch.group, self.per_group, self._generator)
        if len(pairs) == 0:
            need = "source.opponent" if self.pairing == "opponent" else "source.group_size of 2 or more"
            raise UserError(f"reward 'annotate': no two rows to compare; pairing '{self.pairing}' needs {need}")
        return annotated(batch, pairs, self.annotator)

    def state_dict(self) -> dict[str, Any]:
        """The generator, and the annotator's state where it has one."""
        asked = self.annotator.state_dict() if hasattr(self.annotator, "state_dict") else {}
        return {"generator": self._generator.get_state(), "annotator": asked}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the same sequence of draws."""
        self._generator.set_state(state["generator"])
        if hasattr(self.annotator, "load_state_dict"):
            self.annotator.load_state_dict(state["annotator"])
