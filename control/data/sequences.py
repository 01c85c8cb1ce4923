"""Recorded data for policies that look back, and for policies that are asked for a return."""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from unirl.batch import Batch
from unirl.control.asked_return import AskedReturn, to_go_of_states, with_returns
from unirl.control.data.dataset import DataOptions, TransitionDataset
from unirl.control.data.goals import GoalDataset, Hindsight, Relabel, all_states
from unirl.control.data.transitions import Transitions


class SequenceDataset(TransitionDataset):
    """Draws pieces of episodes: every recorded decision is equally likely to begin one of at most `options.context`.

    The number of each decision in its episode is in `inputs["time"]`, [N, T]. With `options.ask` the last observed
    column is the return that followed.
    """

    def __init__(self, data: Transitions, options: DataOptions, *, horizon: int, **rest: Any) -> None:
        super().__init__(data if options.ask is None else with_returns(data, options.ask, horizon), options, **rest)

    def sample(self, n: int) -> Batch:
        """`n` pieces, right-padded; `score` is the return within, where the batch holds rewards."""
        context = self.options.context or 1
        first = torch.randint(len(self), (n,), generator=self._generator).numpy()
        episode = np.searchsorted(self._starts, first, side="right") - 1
        lengths = np.minimum(self._starts[episode] + self._lengths[episode] - first, context)
        batch = self._spans(first, lengths, np.zeros(n))
        time = torch.from_numpy(first - self._starts[episode])[:, None] + torch.arange(batch.mask.shape[1])
        score = batch.reward.sum(-1) if "reward" in batch else None
        return batch.replace(inputs={"time": time * batch.mask}, score=score)


class GoalSequenceDataset(SequenceDataset, GoalDataset):
    """Pieces of episodes with one goal each, drawn for the last decision of the piece."""


class ReturnDataset(TransitionDataset):
    r"""Transitions whose last observed column is the return that followed, spliced with other episodes on request.

    .. math:: \hat R_t = \sum_{t \leq i < t'} r_i + \hat R(w')

    With `relabel.augment`, w' comes from another episode near the waypoint s_{t'}: what was collected until then, and
    what another episode still got from there (see `unirl.control.data.goals`; clusters are of whole observations).
    Rows hold one decision. The returns of next observations remain the episode's own.
    """

    def __init__(self, data: Transitions, options: DataOptions, *, horizon: int, seed: int = 0, **rest: Any) -> None:
        asked = AskedReturn(options.ask or "return_to_go")
        super().__init__(with_returns(data, asked.form, horizon), options, seed=seed, **rest)
        starts, lengths = self._starts, self._lengths
        self._to_go = torch.from_numpy(to_go_of_states(data.rewards, starts, lengths))
        self._remaining = torch.from_numpy(horizon - (np.arange(len(data)) - np.repeat(starts, lengths)))
        self._asked = asked
        relabel = Relabel.of(options.relabel or {})
        self._hindsight = Hindsight(starts, lengths, all_states(data, starts, lengths), relabel, seed)

    def _at(self, index: Tensor, mask: Tensor, source: Tensor | None = None, score: Tensor | None = None) -> Batch:
        batch = super()._at(index, mask, source, score)
        if index.shape[1] > 1 or not self._hindsight.relabel.augment:
            return batch
        rows = index[:, 0]
        drawn = self._hindsight.sample(rows, self._generator)
        to_go = self._to_go[self._hindsight.state_of(rows)] - self._to_go[drawn.waypoint] + self._to_go[drawn.taken]
        shown = torch.as_tensor(self._asked.shown(to_go.numpy(), self._remaining[rows].numpy()), dtype=torch.float32)
        if self.options.normalize_observation:
            shown = (shown - self.observation_mean[-1]) / self.observation_scale[-1]
        observation = batch.inputs["observation"].clone()
        observation[:, 0, -1] = shown
        return batch.replace(inputs={"observation": observation})
