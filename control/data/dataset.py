"""Recorded transitions as a dataset that a method can draw batches from."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from unirl.batch import RECORDED, Batch
from unirl.control.data.collect import gather, make_continuous, policy_function
from unirl.control.data.d4rl import MEMMAP_ABOVE, find_d4rl, read_d4rl
from unirl.control.data.minari_files import is_minari_id, read_minari, read_minari_folder
from unirl.control.data.scores import normalized_score
from unirl.control.data.transitions import (
    Floats,
    Transitions,
    check_range,
    check_sizes,
    chunks,
    episode_bounds,
    normalized_actions,
)
from unirl.control.sections import checked, section
from unirl.errors import UserError

STD_FLOOR = 1e-3  # added to the standard deviation of observations (TD3+BC)
RETURN_RANGE = 1000.0  # IQL scales locomotion rewards to this range of returns


@dataclass(frozen=True)
class DataOptions:
    """How recorded data is presented (`task.data_options`).

    `normalize_observation`: (s - mean) / (std + 1e-3) over the data set (TD3+BC).
    `normalize_reward`: r * 1000 / (largest - smallest episode return) (IQL, locomotion); afterwards
    `reward_scale` * r + `reward_shift` (IQL on antmaze: shift -1).
    `gamma`: fill `returns` with the discounted return to go of these rewards.
    `next_action`: fill `next_reference_action`, the action recorded one row later (0 where the episode ends).
    `clip_actions`: clip to the environment's range instead of refusing.
    `observation_columns`: keep this many leading dimensions.
    `relabel`: goals in hindsight, see `unirl.control.data.goals`; `goal_columns`, `{achieved: [...], desired: [...]}`:
    the columns of the environment's observation they stand in (None: as its dictionary space says).
    `ask`, `context`: for a policy that is asked for a return (see `unirl.control.asked_return`), or that looks back on
    so many decisions; the domain sets both as the method's policy is.
    `memmap_above`: bytes above which an HDF5 file is memory-mapped.
    `rewards`: whether the method learns from rewards; if not, a file may lack them and batches hold none.
    """

    normalize_observation: bool = False
    normalize_reward: bool = False
    reward_scale: float = 1.0
    reward_shift: float = 0.0
    gamma: float | None = None
    next_action: bool = False
    clip_actions: bool = False
    observation_columns: int | None = None
    relabel: Mapping[str, Any] | None = None
    ask: str | None = None
    context: int | None = None
    goal_columns: Mapping[str, Any] | None = None
    memmap_above: int = MEMMAP_ABOVE
    rewards: bool = True

    def __post_init__(self) -> None:
        if self.gamma is not None and not 0.0 <= self.gamma <= 1.0:
            raise UserError(f"the data's gamma is {self.gamma}; a discount lies in [0, 1]")
        if self.observation_columns is not None and self.observation_columns < 1:
            raise UserError(f"the data's observation_columns is {self.observation_columns}; give at least 1")

    @classmethod
    def of(cls, options: Mapping[str, Any], place: str = "task.data_options") -> "DataOptions":
        """From what stands at `place`; raises `UserError` for an unknown name and a value of another type."""
        return checked(cls, options, place)

    @property
    def reads_rewards(self) -> bool:
        """Whether the recording must hold rewards: the method learns from them, or from returns made of them."""
        return self.rewards or self.normalize_reward or self.gamma is not None or self.ask is not None


@dataclass(frozen=True)
class Demonstrations:
    """How many episodes `task.expert` plays where there is no recorded data (`task.demonstrations`).

    `noise`: a standard deviation in units of the action half-range; `env_kwargs` are laid over the task's.
    """

    episodes: int = 20
    noise: float = 0.0
    env_kwargs: Mapping[str, Any] | None = None


class TransitionDataset:
    """Frozen transitions, drawn uniformly with an own generator.

    Batches hold `mask`, `inputs` (`observation`, `action`, `next_observation`), `reward`, `terminated`, `truncated`,
    `reference_action`, `source` (2: demonstration) and, with `gamma`, `returns`. Actions are in units of the action
    half-range, [-1, 1]; observations are normalised where the options say so. `action_low`, `action_high` [A]: the
    environment's bounds (default: none, actions as recorded).

    Raises `UserError` for rewards that cannot be normalised because all episodes have the same return.
    """

    def __init__(
        self,
        data: Transitions,
        options: DataOptions | None = None,
        *,
        seed: int = 0,
        env: str = "",
        action_low: Floats | None = None,
        action_high: Floats | None = None,
    ) -> None:
        self.options = options or DataOptions()
        self.env = env
        data = _leading_columns(data, self.options.observation_columns)
        self._generator = torch.Generator().manual_seed(seed)
        self._starts, self._lengths = episode_bounds(data.terminals, data.timeouts)
        size = data.actions.shape[1]
        low = np.full(size, -np.inf, np.float32) if action_low is None else action_low
        high = np.full(size, np.inf, np.float32) if action_high is None else action_high

        self._observation = _tensor(data.observations)
        self._next_observation = _tensor(data.next_observations)
        self._action = _tensor(normalized_actions(data.actions, low, high, self.options.clip_actions))
        self._terminated = _tensor(data.terminals)
        truncated = data.timeouts & ~data.terminals
        truncated[-1] |= not data.terminals[-1]  # the recording ends here, the episode did not
        self._truncated = _tensor(truncated)

        self.episode_returns: Floats = np.add.reduceat(data.rewards, self._starts, dtype=np.float64)
        rewards = self._transformed(data.rewards)
        self._reward = _tensor(rewards)
        self._raw_reward = _tensor(data.rewards)
        self._returns = (
            None
            if self.options.gamma is None
            else _tensor(returns_to_go(rewards, self._starts, self._lengths, self.options.gamma))
        )
        self.observation_mean, self.observation_std = _moments(self._observation)
        self.observation_scale = self.observation_std + STD_FLOOR
        self._constants: dict[int, tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return int(self._reward.shape[0])

    def sample(self, n: int) -> Batch:
        """`n` transitions drawn uniformly with replacement, one decision each, [n, 1]."""
        index = torch.randint(len(self), (n,), generator=self._generator)
        if n not in self._constants:
            self._constants[n] = torch.ones(n, 1, dtype=torch.bool), torch.full((n,), RECORDED)
        mask, source = self._constants[n]
        return self._at(index.unsqueeze(1), mask=mask, source=source)

    def episodes(self, which: Tensor | None = None) -> Batch:
        """The chosen episodes (default: all, in order), right-padded to the longest; `score` is the recorded return."""
        chosen = np.arange(len(self._starts)) if which is None else which.numpy()
        return self._spans(self._starts[chosen], self._lengths[chosen], self.episode_returns[chosen])

    def segments(self, length: int) -> Batch:
        """All non-overlapping segments of exactly `length` rows within episodes; `score` is their recorded return."""
        self._check_length(length)
        pieces = [
            np.arange(count // length) * length + start
            for start, count in zip(self._starts, self._lengths, strict=True)
            if count >= length
        ]
        return self._segments_at(np.concatenate(pieces), length)

    def sample_segments(self, n: int, length: int) -> Batch:
        """`n` segments of `length` rows, uniform over all places where one fits into an episode."""
        self._check_length(length)
        places = np.maximum(self._lengths - length + 1, 0)
        upto = np.cumsum(places)
        drawn = torch.randint(int(upto[-1]), (n,), generator=self._generator).numpy()
        episode = np.searchsorted(upto, drawn, side="right")
        return self._segments_at(self._starts[episode] + drawn - (upto - places)[episode], length)

    def states_and_actions(self) -> tuple[Tensor, Tensor]:
        """All observations and actions as batches hold them, [M, O] and [M, A], in the order of the recording."""
        if not self.options.normalize_observation:
            return self._observation, self._action
        return (self._observation - self.observation_mean) / self.observation_scale, self._action

    def summary(self) -> dict[str, float]:
        """Facts about the data: counts, returns as recorded, D4RL's normalised score where the task has one."""
        returns, lengths = self.episode_returns, self._lengths
        facts = {
            "transitions": float(len(self)),
            "episodes": float(len(lengths)),
            "terminated": float(self._terminated.sum()),
            "truncated": float(self._truncated.sum()),
            "length_mean": float(lengths.mean()),
            "return_mean": float(returns.mean()),
            "return_std": float(returns.std()),
            "return_min": float(returns.min()),
            "return_max": float(returns.max()),
        }
        score = normalized_score(self.env, returns)
        return facts if score is None else {**facts, "normalized_score": score}

    def state_dict(self) -> dict[str, Any]:
        """The generator's state and the number of rows it draws from."""
        return {"generator": self._generator.get_state(), "transitions": len(self)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue the same draws; raises `UserError` where the data is not the same."""
        if state["transitions"] != len(self):
            raise UserError(
                f"the checkpoint was trained on {state['transitions']:,} transitions, task.data holds {len(self):,}; "
                "give the same data to resume"
            )
        self._generator.set_state(state["generator"])

    def _transformed(self, rewards: Floats) -> Floats:
        options = self.options
        scale, shift = options.reward_scale, options.reward_shift
        if options.normalize_reward:
            spread = float(self.episode_returns.max() - self.episode_returns.min())
            if spread == 0.0:
                raise UserError("normalize_reward divides by the range of episode returns, which is 0 here")
            scale *= RETURN_RANGE / spread
        return rewards if (scale, shift) == (1.0, 0.0) else (rewards * scale + shift).astype(np.float32)

    def _check_length(self, length: int) -> None:
        longest = int(self._lengths.max())
        if not 1 <= length <= longest:
            raise UserError(f"segments of {length} rows do not fit: the longest episode of the data has {longest}")

    def _segments_at(self, starts: np.ndarray, length: int) -> Batch:
        index = torch.from_numpy(starts[:, None] + np.arange(length))
        mask = torch.ones_like(index, dtype=torch.bool)
        return self._at(index, mask=mask, score=_pick(self._raw_reward, index).sum(-1))

    def _spans(self, starts: np.ndarray, lengths: np.ndarray, score: np.ndarray) -> Batch:
        column = np.arange(lengths.max())
        index = starts[:, None] + np.minimum(column, lengths[:, None] - 1)
        mask = torch.from_numpy(column < lengths[:, None])
        return self._at(torch.from_numpy(index), mask=mask, score=torch.from_numpy(score.astype(np.float32)))

    def _at(self, index: Tensor, mask: Tensor, source: Tensor | None = None, score: Tensor | None = None) -> Batch:
        """The batch of these rows, [N, T]; padded places are zero."""
        padded = index.shape[1] > 1 and not bool(mask.all())

        def pick(leaf: Tensor, normalize: bool = False) -> Tensor:
            values = _pick(leaf, index)
            if normalize:
                values = (values - self.observation_mean) / self.observation_scale
            return values * mask.view(*mask.shape, *[1] * (values.dim() - 2)) if padded else values

        normalize, action = self.options.normalize_observation, pick(self._action)
        return Batch(
            mask=mask,
            inputs={
                "observation": pick(self._observation, normalize),
                "action": action,
                "next_observation": pick(self._next_observation, normalize),
            },
            reward=pick(self._reward) if self.options.rewards else None,
            terminated=pick(self._terminated),
            truncated=pick(self._truncated),
            reference_action=action,
            next_reference_action=self._next_action(index) if self.options.next_action else None,
            returns=None if self._returns is None else pick(self._returns),
            score=score,
            source=torch.full((len(index),), RECORDED) if source is None else source,
        )

    def _next_action(self, index: Tensor) -> Tensor:
        """The action that was recorded one row later, [N, T, A], 0 where the episode ends with the row."""
        follows = ~(_pick(self._terminated, index) | _pick(self._truncated, index))
        return _pick(self._action, (index + 1).clamp(max=len(self) - 1)) * follows.unsqueeze(-1)


def returns_to_go(rewards: Floats, starts: NDArray[np.int64], lengths: NDArray[np.int64], gamma: float) -> Floats:
    r"""Discounted sum of the rewards that follow within the episode, [M].

    .. math:: G_t = r_t + \gamma G_{t+1}

    Nothing is bootstrapped where an episode was cut off (the data knows no value function), as in D4RL's returns.
    """
    returns = np.array(rewards, dtype=np.float64)
    for step in range(int(lengths.max()) - 2, -1, -1):  # all episodes at once, from their ends
        rows = starts[lengths > step + 1] + step
        returns[rows] += gamma * returns[rows + 1]
    return returns.astype(np.float32)


def load_dataset(task: Mapping[str, Any], *, seed: int, domain: Any) -> TransitionDataset:
    """The recorded data of a control task.

    `task["data"]`: a D4RL-layout file, `d4rl/<name>` for a public D4RL dataset, a Minari id or folder, or null, in
    which case `task["expert"]` names a scripted expert that demonstrates (`task["demonstrations"]`: `Demonstrations`).
    `domain` offers `set_observation_statistics(mean, std)` [O], called when observations are normalised.

    Raises `UserError` where there is no data and where it does not fit the environment.
    """
    from unirl.control.data.presentation import presentation

    options, env = DataOptions.of(section(task, "data_options")), str(task["env"])
    environment = make_continuous(task)
    states: Any = environment.observation_space
    actions: Any = environment.action_space
    low, high = actions.low, actions.high
    data = _leading_columns(_recorded(task, environment, options, seed), options.observation_columns)
    options = replace(options, observation_columns=None)
    where = Path(str(task.get("data") or task.get("expert"))).name
    data, make = presentation(data, options, environment)
    check_sizes((data.observations.shape[1], data.actions.shape[1]), (states.shape[0], len(low)), where, env)
    environment.close()
    if not options.clip_actions:
        check_range(data.actions, low, high, where, env)
    dataset = make(data, options, seed=seed, env=env, action_low=low, action_high=high)
    if options.normalize_observation:
        domain.set_observation_statistics(dataset.observation_mean, dataset.observation_scale)
    return dataset


def _recorded(task: Mapping[str, Any], environment: Any, options: DataOptions, seed: int) -> Transitions:
    if task.get("data") is not None:
        return read_data(str(task["data"]), options.memmap_above, options.reads_rewards)
    if task.get("expert") is None:
        raise UserError(
            f"task {task['env']} has no recorded data; give it with task.data=FILE.hdf5, "
            "task.data=d4rl/hopper-medium-v2 or a Minari id such as task.data=mujoco/hopper/medium-v0"
        )
    wanted = checked(Demonstrations, section(task, "demonstrations"), "task.demonstrations")
    if wanted.env_kwargs:
        own = {**section(task, "env_kwargs"), **wanted.env_kwargs}
        environment = make_continuous({**task, "env_kwargs": own})
    expert = policy_function(str(task["expert"]), environment, seed)
    return gather(environment, expert, episodes=wanted.episodes, noise=wanted.noise, seed=seed)


def read_data(source: str, memmap_above: int = MEMMAP_ABOVE, rewards: bool = True) -> Transitions:
    """Transitions of a D4RL-layout file, `d4rl/<name>`, a Minari folder or a Minari id.

    Without `rewards` a file may lack them.
    """
    path = Path(source).expanduser()
    if path.is_dir():
        return read_minari_folder(path)
    if path.is_file() or path.suffix in (".hdf5", ".h5"):
        return read_d4rl(path, memmap_above, rewards=rewards)
    if source.startswith("d4rl/"):
        return read_d4rl(find_d4rl(source.removeprefix("d4rl/")), memmap_above, rewards=rewards)
    if is_minari_id(source):
        return read_minari(source)
    raise UserError(
        f"task.data={source} is no file, and neither d4rl/NAME (as d4rl/hopper-medium-v2) "
        "nor a Minari id (as mujoco/hopper/medium-v0)"
    )


def _leading_columns(data: Transitions, count: int | None) -> Transitions:
    if count is None:
        return data
    return replace(data, observations=data.observations[:, :count], next_observations=data.next_observations[:, :count])


def _pick(leaf: Tensor, index: Tensor) -> Tensor:
    return leaf.index_select(0, index.reshape(-1)).view(*index.shape, *leaf.shape[1:])


def _tensor(values: NDArray[Any]) -> Tensor:
    return torch.from_numpy(values)


def _moments(values: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and population standard deviation of every column, float32 from double sums, [O] each."""
    total = torch.zeros(values.shape[1], dtype=torch.float64)
    for rows in chunks(len(values)):
        total += values[rows].double().sum(0)
    mean = total / len(values)
    squares = torch.zeros_like(total)
    for rows in chunks(len(values)):
        squares += (values[rows].double() - mean).square().sum(0)
    return mean.float(), (squares / len(values)).sqrt().float()
