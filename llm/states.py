"""Hidden states of recorded responses: without padding where the model's attention allows it, else padded."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from unirl.batch import Batch
from unirl.llm.attention import NotPackableError, PackedAttention
from unirl.llm.microbatch import response_lengths
from unirl.llm.packing import pack

UNDERSTOOD = {"full_attention", "sliding_attention"}  # kinds of layers that attend as in `unirl.llm.attention`
TRIAL = (4, 2, 3)  # tokens of the responses that a model is tried out on


@dataclass(frozen=True)
class States:
    """Hidden states of all tokens [S, H], and where those of every row are among them, `at` [N, T+1].

    State t is what token t of the row is chosen from, state T follows its last token. After the end of a response `at`
    points to any state.
    """

    hidden: Tensor
    at: Tensor

    def of(self, at: Tensor) -> Tensor:
        """The states [..., H] at some of the places."""
        return self.hidden.index_select(0, at.reshape(-1)).reshape(*at.shape, -1)

    def of_decisions(self, mask: Tensor) -> Tensor:
        """The states [M, H] that the masked decisions of [N, T] are chosen from."""
        return self.hidden.index_select(0, self.at[:, :-1][mask])


def states(network: PreTrainedModel, batch: Batch, packed: bool) -> States:
    """Last hidden states of a batch; `packed`: see `packable`."""
    return _packed(network, batch) if packed else _padded(network, batch)


@torch.no_grad()
def packable(network: PreTrainedModel) -> bool:
    """Whether packed rows have the states that padded ones have; tried out on a few tokens.

    Not so where layers mix tokens outside of transformers' attention interface (recurrent, convolutional, linear), in
    chunks, within a sliding window that they do not tell, or with scores that fused kernels cannot compute (soft caps,
    sinks).
    """
    config: Any = network.config.get_text_config()
    kinds = getattr(config, "layer_types", None)
    if not network._can_set_attn_implementation() or (kinds is not None and not set(kinds) <= UNDERSTOOD):
        return False
    batch = _trial(network)
    packing = pack(batch)
    attention = PackedAttention(network, packing)
    try:
        with attention:
            found = _forward(network, packing.tokens[None], packing.positions[None], None)
    except NotPackableError:
        return False
    told = sum(window is not None for window in attention.windows)
    if len(attention.windows) != config.num_hidden_layers or told != _layers_with_windows(config):
        return False
    return _agree(_padded(network, batch), States(found[0], packing.at))


def positions(attention: Tensor) -> Tensor:
    """Position of every token among the real tokens of its row, [N, L]; padding gets 0."""
    return (attention.long().cumsum(-1) - 1).clamp(min=0)


def _packed(network: PreTrainedModel, batch: Batch) -> States:
    packing = pack(batch)
    attention = PackedAttention(network, packing)
    with attention, _recomputing(network, attention):
        hidden = _forward(network, packing.tokens[None], packing.positions[None], None)
    return States(hidden[0], packing.at)


def _padded(network: PreTrainedModel, batch: Batch) -> States:
    prompt, tokens = batch.context["prompt"], batch.inputs["token"]
    steps = torch.arange(tokens.shape[1], device=tokens.device)
    written = steps < response_lengths(batch.mask)[:, None]
    attention = torch.cat([batch.context["prompt_mask"], written], 1)
    with _recomputing(network, nullcontext()):
        hidden = _forward(network, torch.cat([prompt, tokens], 1), positions(attention), attention)
    width = hidden.shape[1]
    first = torch.arange(len(hidden), device=hidden.device) * width + prompt.shape[1] - 1
    return States(hidden.flatten(0, 1), first[:, None] + torch.arange(tokens.shape[1] + 1, device=hidden.device))


def _forward(network: PreTrainedModel, tokens: Tensor, at: Tensor, attention: Tensor | None) -> Tensor:
    out = network.base_model(input_ids=tokens, attention_mask=attention, position_ids=at, use_cache=False)
    hidden: Tensor = out.last_hidden_state
    return hidden


@contextmanager
def _recomputing(network: PreTrainedModel, attention: AbstractContextManager[None]) -> Iterator[None]:
    """Let layers keep only their inputs, if gradient checkpointing is on and gradients are wanted.

    transformers ties this to training mode, which would also turn dropout on; only the layers' own flag is set here.
    Layers are computed again during the backward pass, where they need `attention` again.
    """
    layers: list[Any] = []
    if torch.is_grad_enabled() and network.is_gradient_checkpointing:
        layers = [module for module in network.modules() if isinstance(module, GradientCheckpointingLayer)]
    before = [layer._gradient_checkpointing_func for layer in layers]
    again = partial(checkpoint, use_reentrant=False, context_fn=lambda: (nullcontext(), attention))
    for layer in layers:
        layer.training, layer._gradient_checkpointing_func = True, again
    try:
        yield
    finally:
        for layer, function in zip(layers, before, strict=True):
            layer.training, layer._gradient_checkpointing_func = False, function


def _trial(network: PreTrainedModel) -> Batch:
    """Two responses to one prompt and one to another, the shorter ones padded."""
    device, vocabulary = network.device, int(network.config.get_text_config().vocab_size)
    prompt = torch.tensor([[1, 2, 3], [1, 2, 3], [0, 4, 2]], device=device) % vocabulary
    token = torch.tensor([[3, 1, 4, 5], [5, 2, 0, 0], [3, 1, 4, 0]], device=device) % vocabulary
    lengths, real = torch.tensor(TRIAL, device=device), torch.tensor([3, 3, 2], device=device)
    steps = torch.arange(4, device=device)
    return Batch(
        mask=steps < lengths[:, None],
        inputs={"token": token},
        context={"prompt": prompt, "prompt_mask": steps[:3] >= 3 - real[:, None]},
    )


def _agree(padded: States, packed: States) -> bool:
    """Whether the states differ by far less than those of the same response after another prompt."""
    expected, found = (
        [each.of(row[: 1 + length]) for row, length in zip(each.at, TRIAL, strict=True)] for each in (padded, packed)
    )
    prompts_matter = (expected[0][1:4] - expected[2][1:4]).abs().max()
    difference = max((a - b).abs().max() for a, b in zip(expected, found, strict=True))
    return bool(difference <= prompts_matter / 10)


def _layers_with_windows(config: Any) -> int:
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return sum(kind == "sliding_attention" for kind in kinds)
    return 0 if getattr(config, "sliding_window", None) is None else int(config.num_hidden_layers)
