"""Goals in hindsight: what a recorded decision turned out to lead to, in its own episode or spliced with another."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.vq import kmeans2, vq
from torch import Tensor

from unirl.batch import Batch
from unirl.control.data.dataset import DataOptions, TransitionDataset
from unirl.control.data.transitions import Floats, Transitions
from unirl.control.sections import checked
from unirl.errors import UserError, unknown

VARIANTS = ("paper", "released")
DRAWS = ("decision", "pair")
_FITTED_ON = 100_000  # states on which clusters are fitted; all states are assigned to them


@dataclass(frozen=True)
class Relabel:
    """How goals are drawn (`relabel` of a method's `source.data`).

    `augment`: probability of splicing with another episode near a waypoint; `clusters`: how many the states form for
    that (the paper takes 20, 40 and 80 for mazes of growing size). `variant`: `paper` takes the state near the waypoint
    from another episode; `released` from any, the waypoint's own included, as in the authors' code.
    `draw`, of a decision and a later state of its episode: `decision` draws any decision uniformly, then the state;
    `pair` an episode uniformly, then two of its states, so that a decision weighs by the steps that follow (GCSL).
    """

    augment: float = 0.0
    clusters: int = 40
    variant: str = "paper"
    draw: str = "decision"

    def __post_init__(self) -> None:
        if not 0.0 <= self.augment <= 1.0 or self.clusters < 1:
            raise UserError("relabel.augment is a probability, and relabel.clusters at least 1")
        if self.variant not in VARIANTS:
            raise unknown("relabel.variant", self.variant, VARIANTS)
        if self.draw not in DRAWS:
            raise unknown("relabel.draw", self.draw, DRAWS)

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> "Relabel":
        """From the configuration; raises `UserError` for an unknown name and a value of another type."""
        return checked(cls, options, "relabel")


@dataclass(frozen=True)
class Splice:
    """Drawn for each of K decisions, indices of states [K]: a later state of the same episode, the state of possibly
    another episode that takes its place (or itself), and the goal, that one's or a later one of its episode.
    """

    waypoint: Tensor
    taken: Tensor
    goal: Tensor


class Hindsight:
    r"""Draws goals for recorded decisions, with temporal augmentation.

    .. math:: w = s_{t'},\ t' \sim U(t+1, T); \quad g = w \text{ with probability } 1-\epsilon, \text{ else }
        g \sim U(w', \dots, s'_{T'}),\ w' \sim U(\text{cluster of } w \text{ in other episodes})

    Where no other episode comes near the waypoint, g = w. States are numbered episode by episode, an episode of L
    decisions having L + 1: decision i of episode e (both from 0) is taken in state i + e and leads to i + e + 1.
    `starts`, `lengths` [E] of the episodes in rows; `states` [S, F]: what is clustered (k-means, `seed`).
    Source: Ghugare et al. 2024, "Closing the gap between TD learning and supervised learning".
    """

    def __init__(
        self, starts: NDArray[np.int64], lengths: NDArray[np.int64], states: Floats, relabel: Relabel, seed: int = 0
    ) -> None:
        self.relabel = relabel
        episodes = torch.arange(len(starts))
        self._row_episode = episodes.repeat_interleave(torch.from_numpy(lengths))
        self._episode = episodes.repeat_interleave(torch.from_numpy(lengths + 1))
        self._first = torch.from_numpy(starts) + episodes
        self._last = self._first + torch.from_numpy(lengths)
        self.states = len(states)
        labels = clusters_of(states, relabel.clusters, seed) if relabel.augment else np.zeros(len(states))
        self._label = torch.from_numpy(labels.astype(np.int64))
        # States sorted by cluster, and within it by number: those of an episode in a cluster stand side by side.
        self._sorted = torch.argsort(self._label, stable=True)
        self._keys = self._label[self._sorted] * self.states + self._sorted

    def state_of(self, rows: Tensor) -> Tensor:
        """Number of the state in which a decision was taken."""
        return rows + self._row_episode[rows]

    def decisions(self, count: int, generator: torch.Generator) -> Tensor:
        """Rows of decisions, [count], drawn as `relabel.draw` says; a pair's is taken in the earlier of its states."""
        if self.relabel.draw == "decision":
            return torch.randint(len(self._row_episode), (count,), generator=generator)
        episode = torch.randint(len(self._first), (count,), generator=generator)
        first, last = self._first[episode], self._last[episode]
        one, other = _between(first, last, generator), _between(first, last - 1, generator)
        return torch.minimum(one, other + (other >= one)) - episode

    def sample(self, rows: Tensor, generator: torch.Generator) -> Splice:
        """One draw for each of the decisions [K]."""
        waypoint = _between(self.state_of(rows) + 1, self._last[self._row_episode[rows]], generator)
        if not self.relabel.augment:
            return Splice(waypoint, waypoint, waypoint)
        begin, end, skip_from, skipped = self._candidates(waypoint)
        count = end - begin - skipped
        drawn = begin + _below(count, generator)
        near = self._sorted[(drawn + skipped * (drawn >= skip_from)).clamp(max=self.states - 1)]
        augmented = (torch.rand(len(rows), generator=generator) < self.relabel.augment) & (count > 0)
        goal = _between(near, self._last[self._episode[near]], generator)
        return Splice(waypoint, torch.where(augmented, near, waypoint), torch.where(augmented, goal, waypoint))

    def probabilities(self, row: int) -> Tensor:
        """Exact probability of every state to be drawn as the goal of a decision, [S], float64."""
        state = int(self.state_of(torch.tensor(row)))
        last = int(self._last[self._row_episode[row]])
        found = torch.zeros(self.states, dtype=torch.float64)
        for waypoint in range(state + 1, last + 1):
            share = 1.0 / (last - state)
            begin, end, skip_from, skipped = (int(x) for x in self._candidates(torch.tensor([waypoint])))
            near = [int(self._sorted[i]) for i in range(begin, end) if not skip_from <= i < skip_from + skipped]
            spliced = share * self.relabel.augment if near else 0.0
            found[waypoint] += share - spliced
            for candidate in near if spliced else []:
                stop = int(self._last[self._episode[candidate]]) + 1
                found[candidate:stop] += spliced / len(near) / (stop - candidate)
        return found

    def _candidates(self, waypoint: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Of the sorted states: where the waypoint's cluster begins and ends, and which ones of it are left out."""
        base, episode = self._label[waypoint] * self.states, self._episode[waypoint]
        begin, end = torch.searchsorted(self._keys, base), torch.searchsorted(self._keys, base + self.states)
        own_begin = torch.searchsorted(self._keys, base + self._first[episode])
        own_end = torch.searchsorted(self._keys, base + self._last[episode] + 1)
        left_out = own_end - own_begin if self.relabel.variant == "paper" else torch.zeros_like(own_begin)
        return begin, end, own_begin, left_out


def clusters_of(states: Floats, count: int, seed: int) -> NDArray[np.int32]:
    """The k-means cluster of every state [S, F]: k-means++ starts, fitted on at most 100,000 states."""
    rng = np.random.default_rng(seed)
    fitted = states if len(states) <= _FITTED_ON else states[rng.choice(len(states), _FITTED_ON, replace=False)]
    count = min(count, len(np.unique(fitted, axis=0)))
    centres, _ = kmeans2(fitted.astype(np.float64), count, iter=20, minit="++", rng=rng)
    labels: NDArray[np.int32] = vq(states.astype(np.float64), centres)[0]
    return labels


def all_states(data: Transitions, starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> Floats:
    """The observations of all states, an episode's last one included: [M + E, O]."""
    ends = starts + lengths
    states: Floats = np.insert(data.observations, ends, data.next_observations[ends - 1], axis=0)
    return states


@dataclass(frozen=True)
class GoalColumns:
    """Columns of the observation: what has been achieved, and what is asked for."""

    achieved: tuple[int, ...]
    desired: tuple[int, ...]

    @classmethod
    def of(cls, given: Mapping[str, Any] | None, environment: Any) -> "GoalColumns":
        """As configured, `{achieved: [...], desired: [...]}`, or as the environment's dictionary space names them.

        Raises `UserError` where neither says it, and for columns that do not fit each other or the environment.
        """
        width = environment.observation_space.shape[0]
        if given is None:
            return cls._named(environment)
        named = isinstance(given, Mapping) and set(given) == {"achieved", "desired"}
        if not named or not all(map(_counts, given.values())):
            raise UserError("task.data_options.goal_columns reads {achieved: [0, 1], desired: [4, 5]}")
        made = cls(tuple(given["achieved"]), tuple(given["desired"]))
        if not made.achieved or len(made.achieved) != len(made.desired) or max(made.achieved + made.desired) >= width:
            raise UserError(
                f"task.data_options.goal_columns: achieved and desired are as many columns of the {width} that are "
                "observed"
            )
        return made

    @classmethod
    def _named(cls, environment: Any) -> "GoalColumns":
        space, found, column = environment.unwrapped.observation_space, {}, 0
        for name, part in space.spaces.items() if isinstance(space, gym.spaces.Dict) else ():
            size = gym.spaces.flatdim(part)
            found[name] = tuple(range(column, column + size))
            column += size
        if "achieved_goal" not in found or "desired_goal" not in found:
            raise UserError(
                "this method asks the policy for goals, and the environment shows none: take one that has "
                "achieved_goal and desired_goal (task=point_maze), or say which columns they are: "
                "task.data_options.goal_columns={achieved: [0, 1], desired: [4, 5]}"
            )
        return cls(found["achieved_goal"], found["desired_goal"])

    def asked_in(self, data: Transitions, width: int) -> Transitions:
        """The data with what has been achieved in place of what was asked for.

        Its goal columns are added where it has none: it then holds as many columns less than the environment (`width`).
        """
        bare = data.observations.shape[1] + len(self.desired) == width

        def filled(values: Floats) -> Floats:
            made = np.empty((len(values), width), dtype=np.float32) if bare else np.array(values, dtype=np.float32)
            if bare:
                made[:, [column for column in range(width) if column not in self.desired]] = values
            made[:, self.desired] = made[:, self.achieved]
            return made

        return replace(data, observations=filled(data.observations), next_observations=filled(data.next_observations))


class GoalDataset(TransitionDataset):
    """Recorded transitions whose goal columns hold goals in hindsight, drawn anew for every batch.

    A row of several decisions has one goal, drawn for its last one. `reward` is 1 and `terminated` set where a decision
    led to the very state that is the goal, otherwise 0. Observations are normalised, where the options say so, with
    the statistics of what was achieved in the goal columns. `options.relabel` says how goals are drawn.

    Raises `UserError` where pieces of episodes are to be drawn by pairs, which weigh single decisions.
    """

    def __init__(
        self, data: Transitions, options: DataOptions, *, columns: GoalColumns, seed: int = 0, **rest: Any
    ) -> None:
        super().__init__(data, options, seed=seed, **rest)
        self._desired = list(columns.desired)
        states = all_states(data, self._starts, self._lengths)[:, list(columns.achieved)]
        relabel = Relabel.of(options.relabel or {})
        if relabel.draw == "pair" and options.context is not None:
            raise UserError(
                "relabel.draw=pair draws single decisions, not pieces of episodes for a policy that looks back"
            )
        self.hindsight = Hindsight(self._starts, self._lengths, states, relabel, seed)
        self._goals = torch.from_numpy(np.ascontiguousarray(states))
        if options.normalize_observation:
            moments = self.observation_mean[self._desired], self.observation_scale[self._desired]
            self._goals = (self._goals - moments[0]) / moments[1]

    def sample(self, n: int) -> Batch:
        """`n` decisions with replacement, drawn as `relabel.draw` says, [n, 1]."""
        rows = self.hindsight.decisions(n, self._generator)
        return self._at(rows.unsqueeze(1), mask=torch.ones(n, 1, dtype=torch.bool))

    def _at(self, index: Tensor, mask: Tensor, source: Tensor | None = None, score: Tensor | None = None) -> Batch:
        batch = super()._at(index, mask, source, score)
        state = self.hindsight.sample(index[:, -1], self._generator).goal
        goal = self._goals[state].unsqueeze(1) * mask.unsqueeze(-1)
        inputs = dict(batch.inputs)
        for name in ("observation", "next_observation"):
            inputs[name] = _with_columns(inputs[name], self._desired, goal)
        reached = (self.hindsight.state_of(index) + 1 == state.unsqueeze(1)) & mask
        return batch.replace(inputs=inputs, reward=reached.float(), terminated=reached)


def _counts(columns: Any) -> bool:
    """Whether these are whole numbers from 0 on."""
    return isinstance(columns, list | tuple) and all(type(column) is int and column >= 0 for column in columns)


def _with_columns(values: Tensor, columns: Sequence[int], content: Tensor) -> Tensor:
    values = values.clone()
    values[..., columns] = content
    return values


def _between(first: Tensor, last: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform whole numbers from `first` to `last`, both included, [K]."""
    return first + _below(last - first + 1, generator)


def _below(count: Tensor, generator: torch.Generator) -> Tensor:
    """Uniform whole numbers from 0 to `count` - 1, [K]; float32 would round up to `count` now and then."""
    return (torch.rand(len(count), generator=generator, dtype=torch.float64) * count).long()
