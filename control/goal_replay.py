"""Learning to reach goals from one's own attempts: episodes are stored and trained on with goals in hindsight."""

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from unirl.batch import Batch
from unirl.control.data.dataset import DataOptions
from unirl.control.data.goals import GoalColumns, GoalDataset
from unirl.control.data.transitions import Transitions, episode_bounds
from unirl.control.envs import make_env
from unirl.errors import UserError
from unirl.registry import register

if TYPE_CHECKING:
    from unirl.control.domain import ControlDomain


@register("source", "goal_replay")
class GoalReplay:
    """Whole episodes towards the environment's goals, relabelled in hindsight (control).

    Rounds of `episodes` with the current policy are followed by `updates` draws of `batch` decisions; before the first,
    episodes of at least `warmup` decisions are played uniformly at random. The latest episodes of at most `capacity`
    decisions are kept. `relabel` as in recorded data (`unirl.control.data.goals`). Observations are not normalised.
    Source: Ghosh et al. 2021 (GCSL).
    """

    like = "replay"

    def __init__(
        self,
        batch: int = 256,
        capacity: int = 1_000_000,
        warmup: int = 1000,
        episodes: int = 10,
        updates: int = 500,
        relabel: Mapping[str, Any] | None = None,
    ) -> None:
        if min(batch, capacity, warmup, episodes, updates) < 1:
            raise UserError("source.batch, capacity, warmup, episodes and updates must be at least 1")
        self.batch, self.capacity, self.warmup = batch, capacity, warmup
        self.episodes, self.updates = episodes, updates
        self._options = DataOptions(relabel=dict(relabel or {}))
        self.samples = self._due = 0
        self._kept: Transitions | None = None
        self._data: GoalDataset
        self._domain: ControlDomain

    def start(self, domain: "ControlDomain", seed: int) -> None:  # type: ignore[override]
        """Find the goals' columns; what is stored is what the environment shows."""
        if domain.info.name != "control":
            raise UserError("source 'goal_replay' is for control: recorded goals are columns of observations")
        self._domain, self._seed = domain, seed
        domain.store_observations()
        environment = make_env(domain.task)
        self._columns = GoalColumns.of((domain.task.get("data_options") or {}).get("goal_columns"), environment)
        environment.close()

    def next(self) -> Batch:
        """Play a round if the last one is used up, then draw decisions with goals in hindsight."""
        if self._due == 0:
            self._play(uniform=self.samples < self.warmup)
            while self.samples < self.warmup:
                self._play(uniform=True)
            self._due = self.updates
        self._due -= 1
        drawn = self._data.sample(self.batch)
        return drawn.replace(source=torch.zeros_like(drawn.source))

    def _play(self, uniform: bool) -> None:
        played = self._domain.rollout(self.episodes, uniform=uniform)
        self.samples += int(played.mask.sum())
        self._keep(as_transitions(played, self._domain.clips_actions))

    def _keep(self, latest: Transitions) -> None:
        joined = latest if self._kept is None else _joined(self._kept, latest)
        starts, _ = episode_bounds(joined.terminals, joined.timeouts)
        within = starts[starts >= len(joined) - self.capacity]
        first = int(within[0]) if len(within) else int(starts[-1])
        self._kept = _rows(joined, slice(first, None))
        self._data = self._dataset(self._kept)

    def _dataset(self, kept: Transitions) -> GoalDataset:
        width = kept.observations.shape[1]
        asked = self._columns.asked_in(kept, width)
        return GoalDataset(asked, self._options, columns=self._columns, seed=self._seed + self.samples)

    def state_dict(self) -> dict[str, Any]:
        """What is kept, where in a round we are, and the generator of the draws."""
        kept = None if self._kept is None else asdict(self._kept)
        return {
            "samples": self.samples,
            "due": self._due,
            "kept": kept,
            "data": None if kept is None else self._data.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Restore what `state_dict` gave."""
        self.samples, self._due = int(state["samples"]), int(state["due"])
        if state["kept"] is not None:
            self._kept = Transitions(**{name: np.asarray(values) for name, values in state["kept"].items()})
            self._data = self._dataset(self._kept)
            self._data.load_state_dict(state["data"])


def as_transitions(batch: Batch, clip: bool) -> Transitions:
    """The decisions of rows that are whole episodes, one after the other.

    Actions are the policy's; with `clip` they are cut to [-1, 1], as the environment did before it executed them.
    """
    mask = batch.mask
    terminals = batch.terminated[mask].numpy()
    ends = torch.zeros_like(mask)
    ends[torch.arange(len(batch)), mask.sum(1) - 1] = True
    action = batch.inputs["action"][mask]
    return Transitions(
        observations=batch.inputs["observation"][mask].numpy(),
        actions=(action.clamp(-1.0, 1.0) if clip else action).numpy(),
        rewards=batch.reward[mask].numpy(),
        next_observations=batch.inputs["next_observation"][mask].numpy(),
        terminals=terminals,
        timeouts=ends[mask].numpy() & ~terminals,
    )


def _joined(first: Transitions, second: Transitions) -> Transitions:
    parts = {part.name: (getattr(first, part.name), getattr(second, part.name)) for part in fields(Transitions)}
    return Transitions(**{name: np.concatenate(pair) for name, pair in parts.items()})


def _rows(data: Transitions, rows: slice) -> Transitions:
    return Transitions(**{part.name: getattr(data, part.name)[rows] for part in fields(Transitions)})
