"""Scripted experts: controllers written down from physics, for demonstrations without any training.

An expert maps observations [B, O] to actions [B, A] and says in `sizes` what O and A are.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from unirl.registry import register

Array = NDArray[Any]


@register("expert", "inverted_pendulum")
@dataclass(frozen=True)
class InvertedPendulumExpert:
    r"""Linear state feedback that keeps InvertedPendulum-v5 upright for all 1000 steps.

    .. math:: u = 0.7 x + 6.8 \theta + 0.9 \dot x + 1.1 \dot\theta

    The gains are those of the linear-quadratic regulator of the linearised simulation (state cost 1, 10, 0.1, 0.1,
    action cost 1), rounded. Observations [B, 4] -> actions [B, 1] in the environment's units, [-3, 3].
    """

    sizes: ClassVar[tuple[int, int]] = (4, 1)  # observations, actions
    gains: tuple[float, float, float, float] = (0.7, 6.8, 0.9, 1.1)
    limit: float = 3.0

    def __call__(self, observation: Array) -> Array:
        """Actions for a batch of observations."""
        force: Array = observation @ np.asarray(self.gains)[:, None]
        return np.clip(force, -self.limit, self.limit)


@register("expert", "pendulum")
@dataclass(frozen=True)
class PendulumExpert:
    r"""Swing-up of Pendulum-v1 by energy shaping, then proportional-derivative balance near the top.

    .. math:: u = k_E\,\dot\theta\,(E_{top} - E), \quad E = \tfrac16 \dot\theta^2 + 5 \cos\theta, \quad E_{top} = 5

    for a rod with m = l = 1, g = 10 (a speed below 0.1 counts as 0.1, so that the swing starts from rest); within
    `catch` radians of the top u = -k_p theta - k_d omega. Observations [B, 3] (cos, sin, angular velocity) -> actions
    [B, 1], [-2, 2]. Mean return over 20 resets -137.
    """

    sizes: ClassVar[tuple[int, int]] = (3, 1)  # observations, actions
    energy_gain: float = 2.0
    proportional: float = 12.0
    derivative: float = 3.0
    catch: float = 0.6
    limit: float = 2.0

    def __call__(self, observation: Array) -> Array:
        """Actions for a batch of observations."""
        cosine, sine, velocity = observation[:, 0], observation[:, 1], observation[:, 2]
        angle = np.arctan2(sine, cosine)
        missing = 5.0 - (velocity**2 / 6.0 + 5.0 * cosine)
        swing = self.energy_gain * missing * np.where(velocity >= 0.0, 1.0, -1.0) * np.maximum(np.abs(velocity), 0.1)
        balance = -self.proportional * angle - self.derivative * velocity
        torque = np.where(np.abs(angle) < self.catch, balance, swing)
        return np.clip(torque, -self.limit, self.limit)[:, None]


@register("expert", "reacher")
@dataclass(frozen=True)
class ReacherExpert:
    r"""Jacobian-transpose control of Reacher-v5's two joints, with damping.

    .. math:: \tau = -k_p J(\theta)^\top (p_{finger} - p_{target}) - k_d \dot\theta

    with links of 0.1 and 0.11 m. Observations [B, 10] -> actions [B, 2], [-1, 1]. Mean return over 20 resets -5.4.
    """

    sizes: ClassVar[tuple[int, int]] = (10, 2)  # observations, actions
    proportional: float = 16.0
    derivative: float = 0.06
    limit: float = 1.0

    def __call__(self, observation: Array) -> Array:
        """Actions for a batch of observations."""
        cosine, sine, velocity = observation[:, 0:2], observation[:, 2:4], observation[:, 6:8]
        gap = observation[:, 8:10]
        sum_cosine = cosine[:, 0] * cosine[:, 1] - sine[:, 0] * sine[:, 1]
        sum_sine = sine[:, 0] * cosine[:, 1] + cosine[:, 0] * sine[:, 1]
        second = 0.11 * np.stack([-sum_sine, sum_cosine], -1)  # d finger / d theta_2, [B, 2]
        first = 0.1 * np.stack([-sine[:, 0], cosine[:, 0]], -1) + second
        pull = np.stack([(first * gap).sum(-1), (second * gap).sum(-1)], -1)
        return np.clip(-self.proportional * pull - self.derivative * velocity, -self.limit, self.limit)
