"""Reference scores of D4RL: returns as percentages between a random policy (0) and an expert (100)."""

import re
from collections.abc import Sequence

import numpy as np
from torch import Tensor

# task -> (return of a random policy, return of an expert), from `d4rl/infos.py` of Farama-Foundation/D4RL. They were
# measured on the gym "-v2" environments; newer versions of an environment use them too, as the literature does.
REFERENCES: dict[str, tuple[float, float]] = {
    "halfcheetah": (-280.178953, 12135.0),
    "hopper": (-20.272305, 3234.3),
    "walker2d": (1.629008, 4592.3),
    "ant": (-325.6, 3879.7),
    "antmaze": (0.0, 1.0),
    "kitchen": (0.0, 4.0),
    "pen": (96.262799, 3076.8331017826877),
    "hammer": (-274.856578, 12794.134825156867),
    "relocate": (-6.425911, 4233.877797728884),
    "door": (-56.512833, 2880.5693087298737),
    "maze2d-open": (0.01, 20.66),
    "maze2d-umaze": (23.85, 161.86),
    "maze2d-medium": (13.13, 277.39),
    "maze2d-large": (6.7, 273.99),
    "maze2d-open-dense": (11.17817, 27.166538620695782),
    "maze2d-umaze-dense": (68.537689, 193.66285642381482),
    "maze2d-medium-dense": (44.264742, 297.4552547777125),
    "maze2d-large-dense": (30.569041, 303.4857382709002),
}

_ENVIRONMENTS = {"adroithandpen": "pen", "adroithandhammer": "hammer", "adroithandrelocate": "relocate"}
_ENVIRONMENTS |= {"adroithanddoor": "door"}


def reference_scores(task_or_env: str) -> tuple[float, float] | None:
    """(random, expert) returns for a dataset (`hopper-medium-v2`), an environment (`Hopper-v5`) or a task (`hopper`).

    The prefixes `d4rl/` and `mujoco/` (Minari) are understood. None where D4RL has no reference.
    """
    name = re.sub(r"^(d4rl|mujoco|unirl)/", "", task_or_env.lower()).replace("/", "-")
    name = re.sub(r"-v\d+$", "", name)
    family = name.split("-")[0]
    return REFERENCES.get(name if family == "maze2d" else _ENVIRONMENTS.get(family, family))


def normalized_score(task_or_env: str, returns: float | Sequence[float] | np.ndarray | Tensor) -> float | None:
    r"""Mean return as D4RL's normalised score in percent.

    .. math:: 100 \cdot (\bar R - R_{random}) / (R_{expert} - R_{random})

    `returns`: undiscounted episode returns. None where D4RL has no reference for the task. Source: Fu et al. 2020.
    """
    reference = reference_scores(task_or_env)
    if reference is None:
        return None
    random, expert = reference
    return 100.0 * (float(np.mean(np.asarray(returns, dtype=np.float64))) - random) / (expert - random)
