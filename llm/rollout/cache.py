"""A key-value cache that is written in place: no step copies what is in it already."""

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, PretrainedConfig
from transformers.cache_utils import DynamicLayer

ROOM = 128  # columns that are allocated ahead, at least; a cache longer than twice this grows by half


def roomy_cache(config: PretrainedConfig, limit: int) -> DynamicCache:
    """The model's own kind of cache, with `RoomyLayer` where its layers attend to everything before them."""
    cache = DynamicCache(config=config)
    cache.layers = [RoomyLayer(limit) if type(layer) is DynamicLayer else layer for layer in cache.layers]
    return cache


def keep_rows(cache: DynamicCache, rows: Tensor) -> None:
    """Keep only these rows; in place where the layers can."""
    layers: list[Any] = cache.layers
    places = torch.arange(len(rows), device=rows.device)
    moved = (rows != places).nonzero().squeeze(-1)
    for layer in layers:
        if isinstance(layer, RoomyLayer):
            layer.keep(len(rows), rows[moved], moved)
        else:
            layer.batch_select_indices(rows)


class RoomyLayer(DynamicLayer):
    """`keys`, `values` [rows, heads, columns, width] are the filled part of tensors with room for more columns.

    `limit`: the most columns that will ever be needed.
    """

    def __init__(self, limit: int) -> None:
        super().__init__()
        self._limit = limit
        self._stored: list[Tensor] = []  # what keys and values are views of; nothing before rows are chosen

    def update(self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Append columns. The first ones, which are the prompts', are kept as they come."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
            return key_states, value_states
        before, after = self.get_seq_length(), self.get_seq_length() + key_states.shape[2]
        if not self._stored or self._stored[0].shape[2] < after:
            self._store(self._filled, after)
        for stored, states in zip(self._stored, (key_states, value_states), strict=True):
            stored[: len(states), :, before:after] = states
        self._view(len(key_states), after)
        return self._filled

    def batch_select_indices(self, indices: Tensor) -> None:
        """Let the rows be these, each as often as it is named."""
        keys, values = self._filled
        self._store((keys[indices], values[indices]), keys.shape[2] + 1)

    def keep(self, count: int, sources: Tensor, places: Tensor) -> None:
        """Move the rows `sources` to `places` and keep the first `count`."""
        for tensor in self._filled:
            tensor[places] = tensor[sources]
        self._view(count, self.get_seq_length())

    @property
    def _filled(self) -> tuple[Tensor, Tensor]:
        assert self.keys is not None and self.values is not None
        return self.keys, self.values

    def _store(self, filled: tuple[Tensor, Tensor], columns: int) -> None:
        """Copy to where there is room for `columns` and more."""
        room = max(columns, min(self._limit, columns + max(ROOM, columns // 2)))
        rows, _, before, _ = filled[0].shape
        self._stored = [tensor.new_empty(*tensor.shape[:2], room, tensor.shape[3]) for tensor in filled]
        for stored, tensor in zip(self._stored, filled, strict=True):
            stored[:, :, :before] = tensor
        self._view(rows, before)

    def _view(self, rows: int, columns: int) -> None:
        self.keys, self.values = (stored[:rows, :, :columns] for stored in self._stored)
