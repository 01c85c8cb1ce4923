"""The expert's recording of a task, beside its data."""

from collections.abc import Mapping
from typing import Any

import torch

from unirl.control.data.dataset import TransitionDataset, load_dataset
from unirl.control.normalize import ObservationNormalizer
from unirl.errors import UserError


class _KeepsStatistics:
    """Stands for a domain whose observation statistics are another dataset's."""

    def set_observation_statistics(self, mean: Any, std: Any) -> None:
        """Leave them."""


def load_expert(task: Mapping[str, Any], seed: int, seen_through: ObservationNormalizer) -> TransitionDataset:
    """`task["expert_data"]`, named as `task["data"]` is; where there is none, demonstrations of `task["expert"]`.

    Its draws are independent of those of the task's data. Where observations are normalised, `seen_through` holds the
    statistics. Raises `UserError` where the task names no expert, and what `load_dataset` raises.
    """
    if task.get("expert_data") is None and task.get("expert") is None:
        raise UserError(
            f"task {task['env']} has no expert to imitate; give a recording with task.expert_data=FILE.hdf5 (or "
            "d4rl/NAME, or a Minari id) beside task.data"
        )
    data = load_dataset({**task, "data": task.get("expert_data")}, seed=seed + 1, domain=_KeepsStatistics())
    if data.options.normalize_observation:
        moments = seen_through.moments
        data.observation_mean = torch.as_tensor(moments.mean, dtype=torch.float32)
        data.observation_scale = torch.as_tensor(moments.var, dtype=torch.float32).sqrt()
    return data
