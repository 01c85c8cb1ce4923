"""Make datasets: act in an environment with any policy and write what happened as D4RL HDF5 or Minari."""

from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from rich.progress import Progress

import unirl.control.data.experts  # noqa: F401  (registers them)
from unirl import make, names
from unirl.control.acting import PolicyActor
from unirl.control.data.d4rl import write_d4rl
from unirl.control.data.minari_files import write_minari
from unirl.control.data.sb3 import SB3Policy
from unirl.control.data.scores import normalized_score
from unirl.control.data.transitions import Transitions, episode_bounds
from unirl.control.envs import Array, Env, make_env
from unirl.errors import UserError
from unirl.run import load

PolicyFunction = Callable[[Array], Array]  # observations [B, O] -> actions [B, A], both in the environment's units
FORMATS = ("d4rl", "minari", "both")


@dataclass(frozen=True)
class Collected:
    """What `collect` made: where it lies and what the recorded episodes returned."""

    transitions: int
    episodes: int
    return_mean: float
    normalized_score: float | None
    file: Path | None
    minari_id: str | None


def make_continuous(task: Mapping[str, Any], **extra: Any) -> Env:
    """The task's environment; raises `UserError` where its actions are not continuous vectors."""
    environment = make_env(task, **extra)
    actions = environment.action_space
    if not (isinstance(actions, gym.spaces.Box) and len(actions.shape) == 1):
        raise UserError(f"{task['env']} has actions {actions}; recorded data needs continuous vectors")
    return environment


def random_policy(environment: Env, seed: int) -> PolicyFunction:
    """Uniform actions within the environment's range (standard normal ones where it is unbounded)."""
    space: Any = environment.action_space
    generator = np.random.default_rng(seed)
    if np.isfinite(space.low).all() and np.isfinite(space.high).all():
        return lambda observation: generator.uniform(space.low, space.high, (len(observation), *space.shape))
    return lambda observation: generator.standard_normal((len(observation), *space.shape))


def run_policy(folder: Path | str, environment: Env) -> PolicyFunction:
    """The policy of a run's newest checkpoint, sampled.

    Raises `UserError` where `folder` holds no control run, and where it was trained on other observations or actions.
    """
    trainer = load(folder)
    domain: Any = trainer.domain
    if domain.info.name != "control":
        raise UserError(f"{folder} is a run of domain '{domain.info.name}'; data is collected from control runs")
    domain.check_acts_on_observations_alone()
    if domain.actions.discrete:
        raise UserError(f"{folder} chooses among {domain.actions.size} actions; recorded data needs continuous vectors")
    trained = f"the run was trained on {domain.info.task}, which"
    _check_same_sizes(trained, (domain.observation_size, domain.actions.size), environment)
    actor = PolicyActor(domain.policy, domain.generator, domain.device)

    def act(observation: Array) -> Array:
        normal = domain.observation_normalizer(np.asarray(observation, dtype=np.float32))
        return np.asarray(domain.actions.to_env(actor(normal, np.arange(len(observation)))[0]))

    return act


def _check_same_sizes(who: str, sizes: tuple[int, int], environment: Env) -> None:
    """Raise `UserError` where a policy of so many observations and actions meets an environment of others."""
    spaces: Any = environment.observation_space, environment.action_space
    here = tuple(space.shape[0] for space in spaces)
    if sizes != here:
        name = environment.spec.id if environment.spec is not None else type(environment.unwrapped).__name__
        raise UserError(
            f"{who} has {sizes[0]} observations and {sizes[1]} actions; "
            f"{name} has {here[0]} observations and {here[1]} actions"
        )


def policy_function(policy: str | PolicyFunction, environment: Env, seed: int = 0) -> PolicyFunction:
    """A policy by name: `random`, a scripted expert, a run folder, or a Stable-Baselines3 `.zip` (which runs its code).

    A function is returned as it is. Raises `UserError` for anything else.
    """
    if not isinstance(policy, str):
        return policy
    if policy == "random":
        return random_policy(environment, seed)
    if Path(policy).expanduser().is_dir():
        return run_policy(Path(policy).expanduser(), environment)
    if Path(policy).suffix == ".zip":
        return SB3Policy(policy)
    if policy in names("expert"):
        expert = make("expert", policy)
        if hasattr(expert, "bind"):
            expert.bind(environment.unwrapped)
        _check_same_sizes(f"expert '{policy}'", expert.sizes, environment)
        chosen: PolicyFunction = expert
        return chosen
    raise UserError(
        f"unknown policy '{policy}'; give random, a run folder, a Stable-Baselines3 .zip "
        f"or a scripted expert: {', '.join(names('expert'))}"
    )


def gather(
    environment: Env,
    policy: PolicyFunction,
    *,
    episodes: int | None = None,
    steps: int | None = None,
    noise: float = 0.0,
    seed: int = 0,
    progress: bool = False,
) -> Transitions:
    """Act until so many whole episodes or so many steps are recorded; the recorded action is the one executed.

    `noise`: standard deviation of Gaussian noise on actions, in units of the half-range. With `steps` the last episode
    is cut off there (a timeout). Raises `UserError` where neither or both limits are given.
    """
    if (episodes is None) == (steps is None) or (episodes or steps or 0) < 1:
        raise UserError("collect needs one positive limit: episodes=N or steps=N")
    rows: list[tuple[Any, ...]] = []
    generator = np.random.default_rng(seed)
    finished, observation = 0, environment.reset(seed=seed)[0]
    with Progress(disable=not progress, transient=True) as bar:
        task = bar.add_task("episodes" if steps is None else "steps", total=episodes or steps)
        while finished < episodes if episodes is not None else len(rows) < (steps or 0):
            action = _executable(policy(observation[None])[0], environment.action_space, noise, generator)
            following, reward, terminated, truncated, _ = environment.step(action)
            stopped = len(rows) + 1 == steps
            rows.append((observation, action, reward, following, terminated, (truncated or stopped) and not terminated))
            observation = following
            if terminated or truncated:
                finished += 1
                observation = environment.reset()[0]
            bar.update(task, completed=finished if steps is None else len(rows))
    return _stacked(rows)


def _executable(action: Array, space: Any, noise: float, generator: np.random.Generator) -> Array:
    """With noise, within the range, in the environment's type: exactly what is executed and recorded."""
    if noise > 0.0:
        half_range = np.where(np.isfinite(space.high - space.low), (space.high - space.low) / 2, 1.0)
        action = action + noise * half_range * generator.standard_normal(space.shape)
    return np.clip(action, space.low, space.high).astype(np.float32)


def _stacked(rows: list[tuple[Any, ...]]) -> Transitions:
    observations, actions, rewards, following, terminals, timeouts = zip(*rows, strict=True)
    return Transitions(
        observations=np.asarray(observations, dtype=np.float32),
        actions=np.asarray(actions, dtype=np.float32),
        rewards=np.asarray(rewards, dtype=np.float32),
        next_observations=np.asarray(following, dtype=np.float32),
        terminals=np.asarray(terminals, dtype=bool),
        timeouts=np.asarray(timeouts, dtype=bool),
    )


def collect(
    task: Mapping[str, Any],
    out: Path | str,
    policy: str | PolicyFunction = "random",
    *,
    episodes: int | None = None,
    steps: int | None = None,
    format: str = "d4rl",
    noise: float = 0.0,
    seed: int = 0,
    minari_id: str | None = None,
    progress: bool = True,
) -> Collected:
    """Record a policy in `task["env"]` and write it.

    `format`: `d4rl` writes the HDF5 file `out`, `minari` creates the local dataset `minari_id` (default `unirl/<stem of
    out>-v0`), `both` does both. `policy`: see `policy_function`. Raises `UserError` for wrong arguments.
    """
    if format not in FORMATS:
        raise UserError(f"format={format} is not one of {', '.join(FORMATS)}")
    out = Path(out).expanduser()
    if format != "minari" and out.suffix not in (".hdf5", ".h5"):
        raise UserError(f"out={out} must end in .hdf5 for the D4RL layout")
    chosen = None if format == "d4rl" else minari_id or f"unirl/{out.stem}-v0"
    with closing(make_continuous(task)) as environment:
        act = policy_function(policy, environment, seed)
        data = gather(environment, act, episodes=episodes, steps=steps, noise=noise, seed=seed, progress=progress)
        if format != "minari":
            write_d4rl(data, out)
        if chosen is not None:
            write_minari(data, chosen, environment, policy if isinstance(policy, str) else "")
    starts, _ = episode_bounds(data.terminals, data.timeouts)
    returns = np.add.reduceat(data.rewards, starts, dtype=np.float64)
    return Collected(
        transitions=len(data),
        episodes=len(starts),
        return_mean=float(returns.mean()),
        normalized_score=normalized_score(task["env"], returns),
        file=out if format != "minari" else None,
        minari_id=chosen,
    )
