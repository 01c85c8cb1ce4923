"""A language model's hidden states as features, for reward and preference models."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from unirl.batch import Batch
from unirl.registry import register

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@register("encoder", "language_model")
class LanguageModelEncoder(nn.Module):
    """Features [N, T, H]: the last hidden state after each response token, the prompt having been read.

    `path`: a model's folder or hub id, whose tokenizer must be the one the batch was made with. `trainable`: whether a
    preference model on top of it trains it too; frozen by default, which needs no gradients of the network. Raises
    `UserError` where there is no such model.
    """

    def __init__(self, path: str, trainable: bool = False) -> None:
        super().__init__()
        from unirl.llm.models import model_settings, read_model

        self._take(read_model(path, model_settings({"path": path}))[0], trainable)

    @classmethod
    def of(cls, network: "PreTrainedModel", trainable: bool = False) -> "LanguageModelEncoder":
        """The same over a network that is already in memory."""
        made = cls.__new__(cls)
        nn.Module.__init__(made)
        made._take(network, trainable)
        return made

    def _take(self, network: Any, trainable: bool) -> None:
        from unirl.llm.states import packable

        self.network = network.requires_grad_(trainable)
        self.width = int(network.config.hidden_size)
        self._trainable = trainable
        self._packed = packable(network)

    def forward(self, batch: Batch) -> Tensor:
        """Hidden states of the batch's responses."""
        from unirl.llm.states import states

        with torch.set_grad_enabled(torch.is_grad_enabled() and self._trainable):
            found = states(self.network, batch, self._packed)
            return found.of(found.at[:, 1:])
