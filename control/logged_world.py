"""A world made of what was logged, with a guardian that knows where the log has something to say (OGSRL [3]).

`unirl/Dosing-v0` is a small one: doses of a made-up drug. Other logs: `LoggedWorld(log, Guardian.fit(log.pairs))`.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

from unirl.errors import UserError

Array = NDArray[Any]
BANDWIDTH, SHARE = 0.535, 0.05  # the authors' kernel width and share of refused training points
PENALTY, REWARD_RANGE = -25.0, (-12.5, -2.5)
NOISE = 0.05  # of the made-up doses about their line
_CHUNK = 2048  # points whose distances to all others are in memory together


@dataclass(frozen=True)
class Scaler:
    """Features mapped to [-1, 1] by the smallest and largest value of each in training data; constant ones to 0."""

    low: Array
    high: Array

    @classmethod
    def fit(cls, points: Array) -> "Scaler":
        """From training points [M, D]."""
        return cls(points.min(0), points.max(0))

    def __call__(self, points: Array) -> Array:
        """The points [..., D] scaled."""
        half = (self.high - self.low) / 2
        scaled: Array = np.where(half > 0, (points - (self.high + self.low) / 2) / np.where(half > 0, half, 1.0), 0.0)
        return scaled


@dataclass(frozen=True)
class Guardian:
    r"""A kernel density over logged state-action pairs, and the level below which a pair is refused.

    .. math:: p(x) = \frac1N \sum_i \frac{e^{-\|x - x_i\|^2 / (2\sigma^2)}}{\sigma\sqrt{2\pi}}

    of features scaled to [-1, 1]; the normaliser is that of one dimension. The level is the `share` quantile (5 %) of p
    over the training points themselves. Source: OGSRL [3].
    """

    points: Array
    scale: Scaler
    bandwidth: float
    level: float

    @classmethod
    def fit(cls, points: Array, bandwidth: float = BANDWIDTH, share: float = SHARE) -> "Guardian":
        """From training points [M, D] in their own units; raises `UserError` for settings outside their range."""
        if bandwidth <= 0 or not 0 <= share < 1:
            raise UserError(f"guardian: bandwidth is {bandwidth}, share {share}; they must be > 0 and in [0, 1)")
        scale = Scaler.fit(points)
        scaled = scale(points)
        return cls(scaled, scale, bandwidth, float(np.quantile(_density(scaled, scaled, bandwidth), share)))

    @cached_property
    def flagged(self) -> Array:
        """Which training points are refused, [M] bool: the given share of them."""
        flagged: Array = _density(self.points, self.points, self.bandwidth) < self.level
        return flagged

    def density(self, points: Array) -> Array:
        """The density at points [..., D]: [...]."""
        flat = self.scale(points.reshape(-1, points.shape[-1]))
        return _density(flat, self.points, self.bandwidth).reshape(points.shape[:-1])

    def refuses(self, points: Array) -> Array:
        """Whether the log has too little to say about points [..., D]: [...] bool."""
        refused: Array = self.density(points) < self.level
        return refused


def _density(x: Array, points: Array, bandwidth: float) -> Array:
    peak = 1 / (bandwidth * np.sqrt(2 * np.pi))
    parts = []
    for start in range(0, len(x), _CHUNK):
        some = x[start : start + _CHUNK]
        squared = np.square(some).sum(1)[:, None] + np.square(points).sum(1) - 2 * some @ points.T
        parts.append(np.exp(-np.maximum(squared, 0.0) / (2 * bandwidth**2)).mean(1))
    density: Array = peak * np.concatenate(parts)
    return density


@dataclass(frozen=True)
class Log:
    """Logged transitions: `observation` [M, O], `action` [M, A], `reward` [M], `next_observation`, `cost` [M] >= 0.

    `first` [K]: rows at which an episode began.
    """

    observation: Array
    action: Array
    reward: Array
    next_observation: Array
    cost: Array
    first: Array

    def __post_init__(self) -> None:
        if (self.cost < 0).any():
            raise UserError("a log's costs are 0 or positive; a limit says how much of them is allowed")

    @cached_property
    def pairs(self) -> Array:
        """States and actions side by side, [M, O + A]."""
        return np.concatenate([self.observation, self.action], 1)

    @cached_property
    def scale(self) -> Scaler:
        """Maps pairs to [-1, 1]."""
        return Scaler.fit(self.pairs)

    @cached_property
    def scaled(self) -> Array:
        """The pairs scaled."""
        return self.scale(self.pairs)


class LoggedWorld(gym.Env[Array, Array]):
    """What happens is what happened at the nearest logged pair: its next state, reward and cost.

    Distances are of features scaled to [-1, 1]. With a guardian, fitted to `log.pairs`, a pair that it refuses, and one
    whose nearest logged pair it refuses, ends the simulation: the state stays, and this and every later step pays
    `penalty` and costs 1. Other rewards are clipped to `reward_range`. Actions lie within the range of the logged ones.
    Episodes start where logged ones did; a time limit ends them. `info`: `cost` and `refused`. Source: OGSRL [3], whose
    code stores costs as -1 and compares them with a positive limit; here costs are positive.
    """

    constants = ("log", "guardian")

    def __init__(
        self,
        log: Log,
        guardian: Guardian | None = None,
        penalty: float = PENALTY,
        reward_range: tuple[float, float] = REWARD_RANGE,
    ) -> None:
        self.log, self.guardian, self.penalty, self.reward_range = log, guardian, penalty, reward_range
        self.state: Array = log.observation[0]
        self.over = False
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, log.observation.shape[1:], np.float32)
        low, high = log.action.min(0).astype(np.float32), log.action.max(0).astype(np.float32)
        self.action_space = gym.spaces.Box(low, high)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Start where a logged episode did."""
        super().reset(seed=seed)
        self.state, self.over = self.log.observation[self.np_random.choice(self.log.first)], False
        return self.state.astype(np.float32), {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Look up what happened, unless the guardian has stopped the simulation."""
        pair = np.concatenate([self.state, action])
        nearest = int(np.square(self.log.scaled - self.log.scale(pair)).sum(1).argmin())
        self.over |= self.guardian is not None and bool(self.guardian.refuses(pair) | self.guardian.flagged[nearest])
        if self.over:
            return self.state.astype(np.float32), self.penalty, False, False, {"cost": 1.0, "refused": True}
        self.state = self.log.next_observation[nearest]
        reward = float(np.clip(self.log.reward[nearest], *self.reward_range))
        info = {"cost": float(self.log.cost[nearest]), "refused": False}
        return self.state.astype(np.float32), reward, False, False, info


def dosing_log(episodes: int = 100, length: int = 20, seed: int = 0) -> Log:
    """Logged doses of a made-up drug, which follow pain along a line: dose = pain / 2 + noise.

    States are pain and toxicity. The reward is relief, the better the larger the dose: more than anybody gave at little
    pain looks best. Pain comes and goes, and a dose lowers it; doses build up toxicity, which costs 1 above 0.5.
    """
    rng = np.random.default_rng(seed)
    state = np.stack([0.3 * rng.standard_normal(episodes), rng.uniform(0, 0.3, episodes)], 1)
    columns: list[tuple[Array, ...]] = []
    for _ in range(length):
        pain, toxicity = state.T
        dose = np.clip(0.5 * pain + NOISE * rng.standard_normal(episodes), -1, 1)
        later_pain = np.clip(0.3 * (pain - dose + rng.standard_normal(episodes)), -1, 1)
        built_up = 0.7 * toxicity + 0.8 * np.maximum(dose, 0) + 0.05 * rng.standard_normal(episodes)
        following = np.stack([later_pain, np.clip(built_up, 0, 1)], 1)
        columns.append((state, dose[:, None], -7.5 + 10 * dose, following, (built_up > 0.5).astype(float)))
        state = following
    flat = [
        np.stack(column, 1).reshape(episodes * length, *column[0].shape[1:]) for column in zip(*columns, strict=True)
    ]
    observation, action, reward, next_observation, cost = flat
    return Log(observation, action, reward, next_observation, cost, first=np.arange(episodes) * length)


@lru_cache(maxsize=8)
def _dosing(episodes: int, seed: int, bandwidth: float, share: float) -> tuple[Log, Guardian]:
    log = dosing_log(episodes, seed=seed)
    return log, Guardian.fit(log.pairs, bandwidth, share)


def dosing(
    episodes: int = 100,
    seed: int = 0,
    guard: bool = True,
    bandwidth: float = BANDWIDTH,
    share: float = SHARE,
    render_mode: str | None = None,
) -> LoggedWorld:
    """The world of `dosing_log`, with or without the guardian."""
    log, guardian = _dosing(episodes, seed, bandwidth, share)
    return LoggedWorld(log, guardian if guard else None)


gym.register("unirl/Dosing-v0", entry_point="unirl.control.logged_world:dosing", max_episode_steps=20)
