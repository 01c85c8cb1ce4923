"""Who says which row is better: called with `(batch, pairs [P, 2])`, return the probability [P] that the first is."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from unirl.batch import Batch
from unirl.errors import UserError
from unirl.preference.fitting import as_model
from unirl.preference.games import TEST_GAME
from unirl.registry import make, register

Annotator = Callable[[Batch, Tensor], Tensor]
_CYCLE = tuple(tuple(row) for row in TEST_GAME.preference.tolist())


@register("annotator", "by_return")
@dataclass(frozen=True)
class ByReturn:
    r"""The row with the larger score is preferred: ``P = sigmoid((score_1 - score_2) / temperature)``.

    `temperature=0` (default) gives hard labels 1 and 0, and 1/2 for a tie. Above 0 it is the model of Bradley & Terry
    (1952), in units of the score. Reads `score` [N].
    """

    temperature: float = 0.0
    reads = ("score",)

    def __post_init__(self) -> None:
        if self.temperature < 0:
            raise UserError(f"annotator 'by_return': temperature is {self.temperature}; it must be 0 or more")

    def __call__(self, batch: Batch, pairs: Tensor) -> Tensor:
        """Labels [P]."""
        first, second = batch.score[pairs].unbind(-1)
        lead: Tensor = first - second
        if self.temperature == 0:
            return (lead.sign() + 1) / 2
        return torch.sigmoid(lead / self.temperature)


@register("annotator", "cyclic")
@dataclass(frozen=True)
class Cyclic:
    r"""A taste that need not be transitive: ``P(i over j) = payoff[bin(i)][bin(j)]``, rock-paper-scissors by default.

    `bin` counts the `edges` that the row's feature has reached, so k - 1 increasing edges make k bins. `feature` is
    `"score"`, `"length"` (number of masked decisions) or `"rewards.NAME"`, so the same taste can be asked of responses
    and of trajectories. The default payoff is `games.TEST_GAME`'s (bin 0 beats 1 beats 2 beats 0); the default edges
    fit a score in [0, 1]. Raises `UserError` if the payoff is not [k, k] with ``P + P^T = 1``.
    """

    feature: str = "score"
    edges: Sequence[float] = (1 / 3, 2 / 3)
    payoff: Sequence[Sequence[float]] = _CYCLE

    def __post_init__(self) -> None:
        bins, edges = len(self.edges) + 1, list(self.edges)
        if edges != sorted(set(edges)):
            raise UserError(f"annotator 'cyclic': edges {edges} must increase")
        if len(self.payoff) != bins or any(len(row) != bins for row in self.payoff):
            raise UserError(f"annotator 'cyclic': {bins - 1} edges need a payoff of {bins} rows of {bins}")
        matrix = torch.tensor(self.payoff)
        if matrix.min() < 0 or not torch.allclose(matrix + matrix.T, torch.ones_like(matrix)):
            raise UserError("annotator 'cyclic': payoff needs entries in [0, 1] with payoff[i][j] + payoff[j][i] = 1")

    @property
    def reads(self) -> tuple[str, ...]:
        """The field that holds the feature."""
        return ("mask",) if self.feature == "length" else (self.feature,)

    def __call__(self, batch: Batch, pairs: Tensor) -> Tensor:
        """Probabilities [P]."""
        value = row_feature(batch, self.feature).contiguous()
        bins = torch.bucketize(value, value.new_tensor(self.edges), right=True)
        matrix = torch.tensor(self.payoff, dtype=value.dtype, device=value.device)
        first, second = bins[pairs].unbind(-1)
        return matrix[first, second]


@register("annotator", "noisy")
@dataclass(eq=False)
class Noisy:
    r"""Another annotator's label, wrong with probability `flip`: ``q = (1 - flip) p + flip (1 - p)``.

    `sample=True` (default) draws a label of 0 or 1 with probability q, as people give it; `False` returns q. `of` is an
    annotator or its configuration. The generator is in `state_dict`.
    """

    of: Any = field(default_factory=lambda: {"name": "by_return"})
    flip: float = 0.1
    sample: bool = True
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.flip <= 1:
            raise UserError(f"annotator 'noisy': flip is {self.flip}; it must be in [0, 1]")
        self.of = as_annotator(self.of)
        self._generator = torch.Generator().manual_seed(self.seed)

    @property
    def reads(self) -> tuple[str, ...]:
        """What the annotator beneath reads."""
        return tuple(getattr(self.of, "reads", ()))

    def __call__(self, batch: Batch, pairs: Tensor) -> Tensor:
        """Labels 0 or 1 [P], or probabilities where `sample` is off."""
        right: Tensor = self.of(batch, pairs)
        chance = (1 - self.flip) * right + self.flip * (1 - right)
        if not self.sample:
            return chance
        return (torch.rand(chance.shape, generator=self._generator).to(chance) < chance).to(chance.dtype)

    def state_dict(self) -> dict[str, Any]:
        """The generator, and the state of the annotator beneath where it has one."""
        beneath = self.of.state_dict() if hasattr(self.of, "state_dict") else {}
        return {"generator": self._generator.get_state(), "of": beneath}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the same sequence of draws."""
        self._generator.set_state(state["generator"])
        if hasattr(self.of, "load_state_dict"):
            self.of.load_state_dict(state["of"])


@register("annotator", "by_model")
@dataclass(frozen=True)
class ByModel:
    """A trained reward or preference model: the probability it gives, detached.

    `model` is the model, or the folder `save_model` wrote it to. Reads whatever the model's encoder reads.
    """

    model: Any

    def __post_init__(self) -> None:
        object.__setattr__(self, "model", as_model(self.model, "annotator 'by_model'"))

    def __call__(self, batch: Batch, pairs: Tensor) -> Tensor:
        """Probabilities [P]."""
        with torch.no_grad():
            return torch.sigmoid(self.model.logit(batch, pairs))


def as_annotator(value: Any) -> Annotator:
    """An annotator from itself, its name, or a configuration with `name`."""
    if isinstance(value, str):
        value = {"name": value}
    if isinstance(value, Mapping):
        if "name" not in value:
            raise UserError("an annotator's configuration needs `name`, e.g. {name: by_return}")
        value = make("annotator", value["name"], **{key: given for key, given in value.items() if key != "name"})
    if not callable(value):
        raise UserError(f"an annotator must be a name, a configuration or a callable, not {value!r}")
    asked: Annotator = value
    return asked


def row_feature(batch: Batch, feature: str) -> Tensor:
    """One number per row [N]: `"length"` (masked decisions), `"score"`, or a row-level one like `"rewards.format"`."""
    head, _, name = feature.partition(".")
    if feature == "length":
        value: Tensor = batch.mask.sum(-1).to(torch.get_default_dtype())
    elif feature == "score":
        value = batch.score
    elif head == "rewards" and name:
        value = batch.rewards[name]
    else:
        raise UserError(f"annotator 'cyclic': feature is '{feature}'; known: score, length, rewards.NAME")
    return value
