"""Costs that an environment reports beside its rewards, as `info["cost"]` (0 or more per step): `rewards["cost"]`."""

from collections.abc import Mapping

import numpy as np
import torch

from unirl.batch import Batch
from unirl.control.envs import Array, Envs
from unirl.control.rollout import Recorder


class CostRecorder(Recorder):
    """A recorder that adds to every decision the cost that its step had."""

    def __init__(self, envs: Envs) -> None:
        super().__init__()
        self._envs = envs
        envs.take_costs()

    def add(self, rows: Array, columns: Array, values: Mapping[str, Array]) -> None:
        """One decision each of some rows, right after the step that it led to."""
        costs = self._envs.take_costs()
        super().add(rows, columns, {**values, "cost": costs[-1]} if costs else values)


def segment_costs(envs: Envs) -> Array | None:
    """Costs of the steps since the last call, [E, T]; None where the environments report none."""
    costs = envs.take_costs()
    return np.stack(costs, 1) if costs else None


def with_costs(batch: Batch, costs: Array | None) -> Batch:
    """The batch with `rewards["cost"]` [N, T], where there are costs."""
    return batch if costs is None else batch.replace(rewards={"cost": torch.from_numpy(costs).to(batch.reward)})
