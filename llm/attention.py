"""Attention among the tokens of a packed batch, put into a transformers model for the length of a pass."""

from contextvars import ContextVar, Token
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface, PreTrainedModel

from unirl.llm.packing import Packing

NAME = "unirl_packed"  # among transformers' attention functions; without a mask function of its own it gets no mask
REFUSED = ("softcap", "s_aux", "position_bias")  # what some models add to the scores, and the fused kernels cannot

_current: ContextVar["PackedAttention"] = ContextVar("packed attention")


class NotPackableError(Exception):
    """The model's attention asks for what packed attention does not do."""


class PackedAttention:
    """Within the context, the network's layers attend inside a packed sequence.

    A class, because layers that are computed again during the backward pass enter it again. `windows`: of every call of
    the attention function so far, the sliding window that it was given.
    """

    def __init__(self, network: PreTrainedModel, packing: Packing) -> None:
        self.packing = packing
        self.windows: list[int | None] = []
        self._network = network
        self._before: list[tuple[str, Token[PackedAttention]]] = []

    def __enter__(self) -> None:
        self._before.append((self._network.config._attn_implementation, _current.set(self)))
        self._network.set_attn_implementation(NAME)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        implementation, token = self._before.pop()
        self._network.set_attn_implementation(implementation)
        _current.reset(token)


def packed_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """softmax(scaling Q K^T) V [1, S, heads, D] of queries [1, heads, S, D]; keys and values may have fewer heads.

    Every bucket of the packing is one call of torch's kernel. Raises `NotPackableError` where scores are more than this
    product.
    """
    if any(others.get(name) is not None for name in REFUSED) or not getattr(module, "is_causal", True):
        raise NotPackableError(f"{type(module).__name__} does more than causal attention")
    current = _current.get()
    current.windows.append(sliding_window)
    packing, buckets = current.packing, current.packing.buckets
    queries = _rows(query, packing.queries).split([len(bucket) * bucket.queries for bucket in buckets])
    keys, values = (
        _rows(each, packing.keys).split([len(bucket) * bucket.keys for bucket in buckets]) for each in (key, value)
    )
    found = []
    for bucket, *parts in zip(buckets, queries, keys, values, strict=True):
        q, k, v = (part.unflatten(0, (len(bucket), -1)).transpose(1, 2) for part in parts)
        out = _attend(q, k, v, bucket.visible(sliding_window), dropout, scaling)
        found.append(out.transpose(1, 2).flatten(0, 1))
    return torch.cat(found).index_select(0, packing.places)[None], None


def _rows(tensor: Tensor, index: Tensor) -> Tensor:
    """Tokens [M] of a tensor [1, heads, S, D], as [M, heads, D]."""
    return tensor[0].transpose(0, 1).index_select(0, index)


def _attend(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, scaling: float | None
) -> Tensor:
    """Attention of [B, heads, L, D], causal where there is no mask."""
    fewer = key.shape[1] < query.shape[1]
    if fewer and mask is not None:  # with a mask, kernels of graphics cards want as many heads of keys as of queries
        key, value = (tensor.repeat_interleave(query.shape[1] // key.shape[1], 1) for tensor in (key, value))
    return F.scaled_dot_product_attention(
        query, key, value, mask, dropout, is_causal=mask is None, scale=scaling, enable_gqa=fewer and mask is None
    )


AttentionInterface.register(NAME, packed_attention)
