"""Gymnasium environments: making them, stepping several of them, and scaling actions."""

import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from typing import Any, cast

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from unirl.control.perturb import perturbed
from unirl.control.sections import section
from unirl.control.snapshot import Snapshot, restore, snapshot
from unirl.errors import UserError, unknown
from unirl.perturbation import flattened

Array = NDArray[Any]
Env = gym.Env[Any, Any]
SIMULATOR_KEYS = ("env", "env_kwargs", "perturb")


def _mujoco_warns_as_python_does() -> None:
    """Let MuJoCo's warnings come once, and what is deprecated in gymnasium's own models not at all."""
    try:
        import mujoco
    except ImportError:
        return

    def warn(message: str) -> None:
        warnings.warn(message, DeprecationWarning if "deprecated" in message else RuntimeWarning, stacklevel=1)

    if mujoco.get_mju_user_warning() is None:
        mujoco.set_mju_user_warning(warn)


_mujoco_warns_as_python_does()


def make_env(task: Mapping[str, Any], **extra: Any) -> Env:
    """The environment `task.env` with `task.env_kwargs`; observations that are not flat vectors are flattened.

    `task.perturb` changes its physics, see `unirl.control.perturb`. Raises `UserError` for an id that is unknown (with
    near matches) or whose package is not installed, for arguments it refuses, for spaces that the policies cannot
    handle, for a perturbation that its model does not know and where either section is no mapping.
    """
    name = task.get("env")
    if not isinstance(name, str) or not name:
        raise UserError("task.env is missing: give a gymnasium id such as Hopper-v5")
    kwargs = {**section(task, "env_kwargs"), **extra}
    try:
        env: Env = gym.make(name, disable_env_checker=True, **kwargs)
    except gym.error.NamespaceNotFound as error:
        namespace = name.partition("/")[0]
        raise UserError(
            f"no environment '{namespace}/...' is registered (task.env={name}); install the package that brings them, "
            f"and name its module: task.env=MODULE:{name}"
        ) from error
    except gym.error.UnregisteredEnv as error:
        near = get_close_matches(name, list(gym.registry), n=3, cutoff=0.6)
        hint = f"did you mean {' or '.join(near)}?" if near else "see gymnasium.pprint_registry()"
        raise UserError(f"unknown environment '{name}' (task.env); {hint}") from error
    except (gym.error.Error, ImportError) as error:
        raise UserError(f"environment '{name}' (task.env) cannot be made: {_one_line(error)}") from error
    except TypeError as error:
        raise UserError(f"environment '{name}' refuses its arguments (task.env_kwargs): {_one_line(error)}") from error
    space = env.observation_space
    if not (isinstance(space, gym.spaces.Box) and len(space.shape) == 1):
        env = gym.wrappers.FlattenObservation(env)
    if env.spec is None or env.spec.max_episode_steps is None:
        raise UserError(f"environment '{name}' has no time limit; set one: task.env_kwargs.max_episode_steps=1000")
    return perturbed(env, section(task, "perturb"))


def simulator_of(task: Mapping[str, Any], real: Env) -> Mapping[str, Any]:
    """The task whose environment roll-outs step: `task` with `task.simulator` laid over it, itself where there is none.

    `task.simulator` may hold `env`, `env_kwargs` and `perturb` (which joins what `task.perturb` says). Raises
    `UserError` for any other key, for what is no mapping and for a world that shows or takes something of another
    shape than `real`.
    """
    if task.get("simulator") is None:
        return task
    simulator = section(task, "simulator")
    for key in simulator:
        if key not in SIMULATOR_KEYS:
            raise unknown("key of task.simulator", str(key), SIMULATOR_KEYS)
    section(simulator, "env_kwargs", "task.simulator")
    joined = {
        **flattened(section(task, "perturb")),
        **flattened(section(simulator, "perturb", "task.simulator")),
    }
    world = {**task, **simulator, "perturb": joined}
    with closing(make_env(world)) as made:
        if (made.observation_space.shape, made.action_space) != (real.observation_space.shape, real.action_space):
            raise UserError(
                f"task.simulator shows {made.observation_space.shape} numbers and takes {made.action_space}; "
                f"{task['env']} shows {real.observation_space.shape} and takes {real.action_space}"
            )
    return world


@dataclass(frozen=True)
class ActionSpace:
    """Between the policy's actions and the environment's.

    Continuous actions are normalised: [-1, 1] stands for the environment's bounds (an unbounded dimension is left as
    it is), and what lies outside is clipped on its way to the environment. Choices are numbered from 0.
    """

    space: gym.Space[Any]

    def __post_init__(self) -> None:
        ok = isinstance(self.space, gym.spaces.Discrete) or (
            isinstance(self.space, gym.spaces.Box) and len(self.space.shape) == 1
        )
        if not ok:
            raise UserError(f"action space {self.space} is not supported: it must be a Discrete or a flat Box")

    @property
    def discrete(self) -> bool:
        """Whether actions are choices."""
        return isinstance(self.space, gym.spaces.Discrete)

    @cached_property
    def size(self) -> int:
        """Dimension of a continuous action, or the number of choices."""
        if isinstance(self.space, gym.spaces.Discrete):
            return int(self.space.n)
        return len(cast(gym.spaces.Box, self.space).low)

    @cached_property
    def target_entropy(self) -> float:
        """-dim(A) (SAC), or 0.98 log(choices) (Christodoulou 2019), in nats."""
        return 0.98 * float(np.log(self.size)) if self.discrete else -float(self.size)

    @cached_property
    def bounded(self) -> bool:
        """Whether every dimension of a continuous action has finite bounds."""
        return isinstance(self.space, gym.spaces.Box) and self.space.is_bounded()

    @cached_property
    def _box(self) -> tuple[Array, Array, Array, Array]:
        """Centre, half-range and normalised bounds, each [A]."""
        assert isinstance(self.space, gym.spaces.Box)
        low, high = self.space.low, self.space.high
        bounded = np.isfinite(low) & np.isfinite(high)
        centre = np.where(bounded, (np.where(bounded, low, 0) + np.where(bounded, high, 0)) / 2, 0.0)
        half = np.where(bounded, (np.where(bounded, high, 1) - np.where(bounded, low, -1)) / 2, 1.0)
        return centre, half, (low - centre) / half, (high - centre) / half

    @property
    def scale(self) -> tuple[Array, Array]:
        """Centre and half-range of continuous actions in the environment's units, [A] each."""
        return self._box[:2]

    def to_env(self, action: Array) -> Array:
        """Normalised actions [..., A] (or choices [...]) as the environment takes them."""
        if isinstance(self.space, gym.spaces.Discrete):
            choice: Array = action + int(self.space.start)
            return choice
        centre, half, low, high = self._box
        scaled: Array = centre + half * np.minimum(np.maximum(action, low), high)
        return scaled.astype(np.float32)

    def from_env(self, action: Array) -> Array:
        """The environment's actions as the policy takes them; the inverse of `to_env` within the bounds."""
        if isinstance(self.space, gym.spaces.Discrete):
            return np.asarray(action, dtype=np.int64) - int(self.space.start)
        centre, half, _, _ = self._box
        normalised: Array = (np.asarray(action) - centre) / half
        return normalised.astype(np.float32)

    def uniform(self, count: int, rng: np.random.Generator) -> Array:
        """Uniformly random normalised actions, [count, A] (or choices [count])."""
        if self.discrete:
            return rng.integers(self.size, size=count)
        return rng.uniform(-1.0, 1.0, (count, self.size)).astype(np.float32)

    def uniform_logp(self) -> float:
        """Log-density of one action from `uniform`."""
        return float(-np.log(self.size)) if self.discrete else float(-self.size * np.log(2.0))


@dataclass(frozen=True)
class Step:
    """What a step of several environments led to: the observation before any reset, [E, O], and [E] each.

    `cost` is `info["cost"]` (0 or more), None where the environments report none.
    """

    observation: Array
    reward: Array
    terminated: Array
    truncated: Array
    cost: Array | None = None


class Envs:
    """Several environments in this process, stepped one after the other.

    `observation` [E, O] float32 is where each environment stands now. Resets are the caller's decision, so that the
    last observation of an episode is never lost.
    """

    def __init__(self, make: Callable[[], Env], count: int, observation_size: int) -> None:
        self._make = make
        self._envs: list[Env | None] = [None] * count  # made when first reset
        self.observation: Array = np.zeros((count, observation_size), dtype=np.float32)
        self._reports_cost: bool | None = None  # not known before the first step

    def __len__(self) -> int:
        return len(self._envs)

    def env(self, index: int) -> Env:
        """One of the environments."""
        env = self._envs[index]
        if env is None:
            env = self._envs[index] = self._make()
        return env

    def reset(self, index: int, seed: int | None = None) -> None:
        """Start a new episode; without a seed the environment's own generator goes on."""
        self.observation[index], _ = self.env(index).reset(seed=seed)

    def step(self, actions: Array, indices: Sequence[int] | Array | None = None) -> Step:
        """Step all environments, or those of the given indices, with one action (in their own units) each.

        Raises `UserError` where a cost is reported in some steps only.
        """
        chosen = range(len(self._envs)) if indices is None else indices
        count = len(actions)
        reward = np.empty(count)
        terminated, truncated = np.empty(count, dtype=bool), np.empty(count, dtype=bool)
        costs: list[float] = []
        for k, (i, action) in enumerate(zip(chosen, actions, strict=True)):
            self.observation[i], reward[k], terminated[k], truncated[k], info = self.env(i).step(action)
            if "cost" in info:
                costs.append(info["cost"])
        if self._reports_cost is None:
            self._reports_cost = bool(costs)
        if len(costs) != (count if self._reports_cost else 0):
            raise UserError("the environment reports info['cost'] in some steps only; report 0.0 where there is none")
        after = self.observation.copy() if indices is None else self.observation[indices]
        return Step(after, reward, terminated, truncated, np.array(costs) if self._reports_cost else None)

    def snapshot(self, index: int) -> Snapshot:
        """The state of one environment."""
        return snapshot(self.env(index))

    def restore(self, index: int, saved: Snapshot, observation: Array) -> None:
        """Bring one environment to a saved state, in which it showed `observation` [O]."""
        if self._envs[index] is None:
            self.reset(index)  # gymnasium refuses to step an environment that was never reset
        self._envs[index] = restore(self.env(index), saved)
        self.observation[index] = observation

    def state_dict(self) -> dict[str, Any]:
        """Observations and the state of every environment (None for one that only a deep copy could hold)."""
        return {
            "observation": self.observation.copy(),
            "envs": [self.snapshot(index).state_dict() for index in range(len(self._envs))],
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> list[int]:
        """Continue every environment where it was; returns those whose state could not be saved and need a reset."""
        for index, saved in enumerate(state["envs"]):
            if saved is not None:
                self.restore(index, Snapshot.from_state(saved), np.asarray(state["observation"][index]))
        return [index for index, saved in enumerate(state["envs"]) if saved is None]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
