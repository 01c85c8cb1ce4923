"""Roll-outs: whole episodes in groups, or segments of a fixed number of decisions."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from unirl.batch import Batch
from unirl.control.acting import Actor, Choice
from unirl.control.envs import ActionSpace, Array, Envs, Step

Observe = Callable[[Array], Array]


class Recorder:
    """Collects decisions of rows of different lengths as tables [N, T, ...], right-padded with zeros."""

    def __init__(self) -> None:
        self._where: list[tuple[Array, Array]] = []
        self._values: dict[str, list[Array]] = {}

    def add(self, rows: Array, columns: Array, values: Mapping[str, Array]) -> None:
        """One decision each of some rows: `rows`, `columns` and every value have length K."""
        self._where.append((rows, columns))
        for name, value in values.items():
            self._values.setdefault(name, []).append(value)

    def tables(self, count: int) -> dict[str, Array]:
        """All values as tables of `count` rows, with `mask` telling decisions from padding."""
        rows = np.concatenate([where[0] for where in self._where])
        columns = np.concatenate([where[1] for where in self._where])
        shape = (count, int(columns.max()) + 1)
        mask = np.zeros(shape, dtype=bool)
        mask[rows, columns] = True
        made = {"mask": mask}
        for name, values in self._values.items():
            flat = np.concatenate(values)
            made[name] = np.zeros((*shape, *flat.shape[1:]), dtype=flat.dtype)
            made[name][rows, columns] = flat
        return made


@dataclass(frozen=True)
class Episodes:
    """Raw return and length of every episode, and the sum of its costs where there are costs, [N] each."""

    returns: Array
    lengths: Array
    costs: Array | None


def play_segment(
    envs: Envs, length: int, actions: ActionSpace, act: Actor, observe: Observe, normal: Array
) -> tuple[dict[str, Array], Array]:
    """Take `length` decisions in every environment, resetting those whose episode ends.

    `normal` [E, O] are the normalised present observations. Returns the tables [E, length, ...] and the normalised
    observations to continue from.
    """
    decisions: list[dict[str, Array]] = []
    rows = np.arange(len(envs))
    for _ in range(length):
        choice = act(normal, rows)
        step = envs.step(actions.to_env(choice.action))
        after = observe(step.observation)
        decisions.append(_recorded(normal, choice, step, after))
        ended = np.flatnonzero(step.terminated | step.truncated)
        normal = after
        if len(ended):
            for index in ended:
                envs.reset(int(index))
            normal = after.copy()
            normal[ended] = observe(envs.observation[ended])
    tables = {name: _in_columns([decision[name] for decision in decisions]) for name in decisions[0]}
    return tables | {"mask": np.ones((len(envs), length), dtype=bool)}, normal


def _in_columns(values: list[Array]) -> Array:
    return values[0][:, None] if len(values) == 1 else np.stack(values, 1)  # off-policy methods take single steps


def _recorded(normal: Array, choice: Choice, step: Step, after: Array) -> dict[str, Array]:
    """What is kept of one decision in each of K environments, [K, ...] each."""
    kept = {
        "observation": normal,
        "action": choice.action,
        "behavior_logp": choice.logp,
        "raw_action": choice.raw,
        "next_observation": after,
        "reward": step.reward,
        "terminated": step.terminated,
        "truncated": step.truncated,
        "cost": step.cost,
    }
    return {name: value for name, value in kept.items() if value is not None}


def play_episodes(
    envs: Envs,
    seeds: Sequence[int],
    actions: ActionSpace,
    act: Actor,
    observe: Observe,
    recorder: Recorder | None = None,
    group_size: int = 1,
) -> Episodes:
    """Play one whole episode per row, as many at a time as there are environments.

    `seeds` has one reset seed per group of `group_size` consecutive rows: the first row to start resets with it, the
    others are brought to the same state.
    """
    starts = _GroupStarts(envs, seeds, group_size)
    total = len(seeds) * group_size
    returns, lengths, costs = np.zeros(total), np.zeros(total, dtype=np.int64), np.zeros(total)
    step: Step | None = None
    slots = np.arange(min(len(envs), total))
    rows = slots.copy()  # the row that each active slot plays
    waiting = len(slots)
    for slot, row in zip(slots, rows, strict=True):
        starts.begin(int(slot), int(row))
    normal = observe(envs.observation[slots])
    while len(slots):
        choice = act(normal, rows)
        step = envs.step(actions.to_env(choice.action), slots)
        after = observe(step.observation)
        if recorder is not None:
            recorder.add(rows, lengths[rows], _recorded(normal, choice, step, after))
        returns[rows] += step.reward
        lengths[rows] += 1
        if step.cost is not None:
            costs[rows] += step.cost
        normal = after
        ended = step.terminated | step.truncated
        if ended.any():
            rows, normal, kept = rows.copy(), after.copy(), ~ended
            for k in np.flatnonzero(ended)[: total - waiting]:
                starts.begin(int(slots[k]), waiting)
                normal[k] = observe(envs.observation[slots[k : k + 1]])[0]
                rows[k], kept[k] = waiting, True
                waiting += 1
            slots, rows, normal = slots[kept], rows[kept], normal[kept]
    return Episodes(returns, lengths, None if step is None or step.cost is None else costs)


class _GroupStarts:
    """Starts episodes; the rows of a group start from one state."""

    def __init__(self, envs: Envs, seeds: Sequence[int], group_size: int) -> None:
        self._envs, self._seeds, self._size = envs, seeds, group_size
        self._first: dict[int, tuple[Any, Array]] = {}

    def begin(self, slot: int, row: int) -> None:
        group = row // self._size
        if group in self._first:
            self._envs.restore(slot, *self._first[group])
            return
        self._envs.reset(slot, seed=int(self._seeds[group]))
        if self._size > 1:
            self._first[group] = (self._envs.snapshot(slot), self._envs.observation[slot].copy())


def row_scores(reward: Array, ended: Array, carry: Array) -> tuple[Array, Array]:
    """Mean raw return of the episodes that ended within each row of segments [E, T]; where none did, the return so far.

    `carry` [E] is the return of the running episode before the first column. Returns the scores and the new carry.
    """
    total, finished = np.zeros(len(carry)), np.zeros(len(carry))
    for t in range(reward.shape[1]):
        carry = carry + reward[:, t]
        total += np.where(ended[:, t], carry, 0.0)
        finished += ended[:, t]
        carry = np.where(ended[:, t], 0.0, carry)
    return np.where(finished > 0, total / np.maximum(finished, 1), carry), carry


def as_batch(tables: dict[str, Array], device: torch.device, **rows: Array) -> Batch:
    """The batch of a roll-out: float32 tensors, with the given row fields, [N] each."""
    made = {name: _tensor(table, device) for name, table in tables.items()}
    names = ("observation", "action", "raw_action", "next_observation")
    inputs = {name: made.pop(name) for name in names if name in made}
    action = inputs["action"]
    rewards = {kind: made.pop(name) for kind, name in (("raw", "raw_reward"), ("cost", "cost")) if name in made}
    return Batch(
        **made,
        **{name: _tensor(values, device) for name, values in rows.items()},
        inputs=inputs,
        reference_action=action if action.is_floating_point() else None,
        rewards=rewards or None,
    )


def _tensor(values: Array, device: torch.device) -> torch.Tensor:
    tensor = torch.from_numpy(values)
    return tensor.to(device, torch.float32 if tensor.is_floating_point() else tensor.dtype)
