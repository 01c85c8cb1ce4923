"""Random transitions in the shapes of Hopper: how fast an update is does not depend on what was recorded."""

import numpy as np

ROWS, EPISODE = 100_000, 1000
OBSERVATION, ACTION = 11, 3


def arrays(rows: int = ROWS) -> dict[str, np.ndarray]:
    """The arrays of a D4RL file."""
    draw = np.random.default_rng(0)
    observations = draw.normal(size=(rows, OBSERVATION)).astype(np.float32)
    return {
        "observations": observations,
        "next_observations": np.roll(observations, -1, axis=0),
        "actions": draw.uniform(-1, 1, (rows, ACTION)).astype(np.float32),
        "rewards": draw.normal(size=rows).astype(np.float32),
        "terminals": np.zeros(rows, dtype=bool),
        "timeouts": np.arange(rows) % EPISODE == EPISODE - 1,
    }
