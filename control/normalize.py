"""Running statistics that keep observations and rewards at a usual scale."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]


class RunningMoments:
    """Mean and (population) variance of everything seen so far, in float64.

    Batches are merged by the parallel update of Chan, Golub and LeVeque (1983), so the result does not depend on how
    the data was cut into batches.
    """

    def __init__(self, shape: tuple[int, ...] = ()) -> None:
        self.count = 0
        self.shape = shape
        self.mean: Array = np.zeros(shape)
        self.var: Array = np.ones(shape)

    def update(self, batch: Array) -> None:
        """Merge a batch [B, *shape]; an empty one changes nothing."""
        size = len(batch)
        if size == 0:
            return
        batch = np.asarray(batch, dtype=np.float64)
        batch_mean, batch_var = (batch[0], np.zeros(self.shape)) if size == 1 else (batch.mean(0), batch.var(0))
        total = self.count + size
        if self.count == 0:
            self.mean, self.var = batch_mean, batch_var
        else:
            shift = batch_mean - self.mean
            squares = self.var * self.count + batch_var * size + shift * shift * (self.count * size / total)
            self.mean = self.mean + shift * (size / total)
            self.var = squares / total
        self.count = total

    def state_dict(self) -> dict[str, Any]:
        """Count, mean and variance."""
        return {"count": self.count, "mean": np.array(self.mean), "var": np.array(self.var)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from saved moments."""
        self.count = int(state["count"])
        self.mean = np.array(state["mean"], dtype=np.float64).reshape(self.shape)
        self.var = np.array(state["var"], dtype=np.float64).reshape(self.shape)


class ObservationNormalizer:
    """(observation - mean) / sqrt(var + 1e-8), clipped to [-10, 10]; the identity until it has seen anything.

    `mode`: "off", "running" (updated by training roll-outs) or "fixed" (the statistics of a dataset).
    Defaults as in gymnasium's and Stable-Baselines3's `VecNormalize`.
    """

    clip = 10.0
    epsilon = 1e-8

    def __init__(self, size: int, mode: str) -> None:
        self.mode = mode
        self.moments = RunningMoments((size,))
        self._refresh()

    def observe(self, observation: Array) -> Array:
        """Take [B, O] into the statistics, where these are running, and normalise it."""
        if self.mode == "running":
            self.moments.update(observation)
            self._refresh()
        return self(observation)

    def __call__(self, observation: Array) -> Array:
        """Normalise [..., O] to float32, leaving the statistics as they are."""
        if self.mode == "off" or self.moments.count == 0:
            return np.asarray(observation, dtype=np.float32)
        normal: Array = (observation - self._mean) * self._scale
        return np.minimum(np.maximum(normal, -self.clip), self.clip, dtype=np.float32)

    def fix(self, mean: Array, std: Array) -> None:
        """Use these statistics of a dataset from now on: (observation - mean) / std."""
        self.mode = "fixed"
        self.moments.count = 1
        self.moments.mean = np.array(mean, dtype=np.float64)
        self.moments.var = np.square(np.array(std, dtype=np.float64))
        self._refresh()

    def state_dict(self) -> dict[str, Any]:
        """Mode and moments."""
        return {"mode": self.mode, "moments": self.moments.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from saved statistics."""
        self.mode = str(state["mode"])
        self.moments.load_state_dict(state["moments"])
        self._refresh()

    def _refresh(self) -> None:
        self._mean = self.moments.mean.astype(np.float32)
        self._scale = (1.0 / np.sqrt(self.moments.var + self.epsilon)).astype(np.float32)


class RewardScaler:
    r"""Scales rewards: r / sqrt(var(R) + 1e-8), clipped to [-10, 10].

    :math:`R_t = \gamma R_{t-1} + r_t` is the discounted return so far; it restarts with every episode. The variance is
    over everything seen so far, the roll-out being scaled included, so that all of its rewards share one scale.
    Sources: gymnasium's `NormalizeReward`, Stable-Baselines3's `VecNormalize` (discount 0.99).
    """

    clip = 10.0
    epsilon = 1e-8

    def __init__(self, enabled: bool, discount: float = 0.99) -> None:
        self.enabled = enabled
        self.discount = discount
        self.moments = RunningMoments()

    def __call__(self, reward: Array, ended: Array, mask: Array, carry: Array) -> tuple[Array, Array]:
        """Scale the rewards [N, T] of a roll-out, given where episodes ended and the returns [N] carried into it.

        Returns the scaled rewards and the discounted returns to carry into the next roll-out of the same rows.
        """
        if not self.enabled:
            return reward, carry
        discounted = np.empty(reward.shape)
        for t in range(reward.shape[1]):
            carry = carry * self.discount + reward[:, t]
            discounted[:, t] = carry
            carry = np.where(ended[:, t], 0.0, carry)
        self.moments.update(discounted[mask])
        if self.moments.var <= 0:
            return reward, carry
        scale = 1.0 / np.sqrt(self.moments.var + self.epsilon)
        return np.clip(reward * scale, -self.clip, self.clip), carry

    def state_dict(self) -> dict[str, Any]:
        """Whether it is on, and the moments."""
        return {"enabled": self.enabled, "moments": self.moments.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from saved statistics."""
        self.enabled = bool(state["enabled"])
        self.moments.load_state_dict(state["moments"])
