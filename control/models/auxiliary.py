"""What an auxiliary model offers the domain."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

if TYPE_CHECKING:
    import torch

    from unirl.control.acting import Actor
    from unirl.control.data.dataset import TransitionDataset
    from unirl.control.domain import ControlDomain
    from unirl.control.score import Scorer


class AuxiliaryModel(nn.Module):
    """A trained or fitted thing that scores batches; its parameters and buffers are checkpointed with the domain.

    `fields`: names of its quantities and the methods that compute them from a scorer (which holds the batch, the
    domain and everything already computed). A method is looked up by its name, so subclasses may override it.
    """

    fields: ClassVar[Mapping[str, str]] = {}

    def build(self, domain: "ControlDomain") -> None:
        """Make the networks, from the domain's seed; called once, when the domain is built."""

    def fit(self, data: "TransitionDataset") -> None:
        """Look at the recorded data as the method sees it; called whenever the domain has opened it."""

    def next_action(self, scorer: "Scorer") -> Tensor | None:
        """The action at the next state that targets use in place of the policy's own, [N, T, A]; None: the policy's."""
        return None

    def actor(self, domain: "ControlDomain", generator: "torch.Generator") -> "Actor | None":
        """Who acts in the policy's place, in roll-outs and evaluations; None: the policy."""
        return None

    def quantity(self, name: str) -> "Callable[[Scorer], Tensor]":
        """The method that computes a quantity."""
        method: Callable[[Scorer], Tensor] = getattr(self, self.fields[name])
        return method
