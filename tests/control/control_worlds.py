"""Worlds small enough to follow by hand."""

from typing import Any

import gymnasium as gym
import numpy as np


class Clock(gym.Env[np.ndarray, np.ndarray]):
    """Shows [time, number drawn at reset]; pays 1, 2, 3, ...; terminates after `life` steps."""

    def __init__(self, life: int = 3, render_mode: str | None = None) -> None:
        self.life = life
        self.time = 0
        self.drawn = 0.0
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = gym.spaces.Box(-2.0, 6.0, (1,), np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.time, self.drawn = 0, float(self.np_random.normal())
        return self._seen(), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action)
        self.time += 1
        return self._seen(), float(self.time), self.time >= self.life, False, {}

    def _seen(self) -> np.ndarray:
        return np.array([self.time, self.drawn], dtype=np.float32)


class Opaque(Clock):
    """The same with its state in an object that only a deep copy can follow."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.inner = Clock(**kwargs)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        return self.inner.reset(seed=seed)

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return self.inner.step(action)


gym.register("unirl-test/Clock-v0", entry_point=Clock, max_episode_steps=5)
gym.register("unirl-test/Opaque-v0", entry_point=Opaque, max_episode_steps=5)
gym.register("unirl-test/Endless-v0", entry_point=Clock)

CLOCK = {"env": "unirl-test/Clock-v0"}
SMALL = {"hidden": [8], "activation": "tanh"}
