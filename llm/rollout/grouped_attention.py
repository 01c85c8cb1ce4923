"""Attention of one new token per row to a cache, without copying the cache.

Where several heads of queries share a head of keys, transformers' `sdpa` repeats keys and values for every query as
soon as there is a mask: at every step all that is in the cache is copied. With a single query per row the heads of a
group can stand where the queries of a sequence would, and nothing is repeated.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "unirl_grouped"  # among transformers' attention functions


def grouped(network: PreTrainedModel) -> bool:
    """Whether the network's attention is transformers' `sdpa`, called through its table of attention functions."""
    config, trunk = network.config, network.base_model
    in_table = type(network)._supports_attention_backend and getattr(trunk, "config", None) is config
    return bool(in_table and config._attn_implementation in ("sdpa", NAME))


@contextmanager
def grouping(network: PreTrainedModel) -> Iterator[None]:
    """Within the context the network attends by `grouped_attention`, if it is such a network."""
    config, before = network.config, network.config._attn_implementation
    if grouped(network):
        config._attn_implementation = NAME
    try:
        yield
    finally:
        config._attn_implementation = before


def grouped_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """As transformers' `sdpa`: queries [N, heads, L, D] to [N, L, heads, D]; keys and values may have fewer heads."""
    rows, heads, length, _ = query.shape
    if length > 1 or heads == key.shape[1] or others.get("position_bias") is not None:
        out: tuple[Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **others
        )
        return out
    together = query.reshape(rows, key.shape[1], -1, query.shape[3])
    found = functional.scaled_dot_product_attention(together, key, value, attention_mask, dropout, scale=scaling)
    return found.reshape(rows, 1, heads, -1), None


AttentionInterface.register(NAME, grouped_attention)
AttentionMaskInterface.register(NAME, sdpa_mask)
