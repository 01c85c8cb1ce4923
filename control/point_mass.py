"""Continuous problems with exact solutions: a point mass, whose optimum is linear, and a bandit with several peaks.

As environments: `task=gymnasium task.env=unirl/PointMass-v0` and `unirl/Peaks-v0` (arguments in `task.env_kwargs`).
"""

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


def lqr(
    a: Array, b: Array, state_cost: Array, action_cost: Array, gamma: float = 1.0, tolerance: float = 1e-12
) -> tuple[Array, Array]:
    r"""The optimal gain K and cost-to-go matrix P of x' = A x + B u with costs x'Qx + u'Ru: u = -K x, cost x'Px.

    .. math:: P = Q + \gamma A^T P A - \gamma^2 A^T P B (R + \gamma B^T P B)^{-1} B^T P A

    Iterated from P = Q until it changes by less than `tolerance`; the sum of costs is discounted by `gamma`.
    """
    p = np.asarray(state_cost, dtype=float)
    while True:
        gain = np.linalg.solve(action_cost + gamma * b.T @ p @ b, gamma * b.T @ p @ a)
        new = state_cost + gamma * a.T @ p @ (a - b @ gain)
        if np.abs(new - p).max() < tolerance:
            return gain, new
        p = new


class PointMass(gym.Env[Array, Array]):
    """A point in the plane to be moved to the origin: x' = x + speed * action + noise, action in [-1, 1]^2.

    The reward is -(|x|^2 + action_cost * |action|^2), of the state before the step; episodes start uniformly in
    [-1, 1]^2. While no action reaches the bounds the optimum is `lqr(I, speed I, I, action_cost I)`.
    """

    def __init__(
        self, speed: float = 0.1, noise: float = 0.0, action_cost: float = 0.1, render_mode: str | None = None
    ) -> None:
        self.speed, self.noise, self.action_cost = speed, noise, action_cost
        self.position: Array = np.zeros(2)
        self.observation_space = gym.spaces.Box(-np.inf, np.inf, (2,), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """Draw the first position."""
        super().reset(seed=seed)
        self.position = self.np_random.uniform(-1.0, 1.0, 2)
        return self.position.astype(np.float32), {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """Pay for where the point is and for the action, then move."""
        reward = -float(self.position @ self.position + self.action_cost * np.sum(np.square(action, dtype=float)))
        moved = self.position + self.speed * np.asarray(action, dtype=float)
        self.position = moved + self.noise * self.np_random.standard_normal(2)
        return self.position.astype(np.float32), reward, False, False, {}


class Peaks(gym.Env[Array, Array]):
    """One decision in [-1, 1]: the reward is the sum of bell curves, so that a policy may have to choose a peak.

    `centres`, `heights`: of the peaks; `width`: their standard deviation.
    """

    def __init__(
        self,
        centres: Sequence[float] = (-0.5, 0.5),
        heights: Sequence[float] = (0.8, 1.0),
        width: float = 0.15,
        render_mode: str | None = None,
    ) -> None:
        self.centres, self.heights, self.width = np.asarray(centres, float), np.asarray(heights, float), width
        self.observation_space = gym.spaces.Box(0.0, 1.0, (1,), np.float32)
        self.action_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        """There is one state."""
        super().reset(seed=seed)
        return np.ones(1, dtype=np.float32), {}

    def step(self, action: Array) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        """The height of the curve at the action."""
        away = (float(action[0]) - self.centres) / self.width
        reward = float(self.heights @ np.exp(-0.5 * away**2))
        return np.ones(1, dtype=np.float32), reward, True, False, {}


gym.register("unirl/PointMass-v0", entry_point="unirl.control.point_mass:PointMass", max_episode_steps=50)
gym.register("unirl/Peaks-v0", entry_point="unirl.control.point_mass:Peaks", max_episode_steps=1)
