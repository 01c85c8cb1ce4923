"""A policy trained elsewhere as an anchor: a teacher to stay near, or an opponent to play against."""

import torch
from torch import Tensor, nn

from unirl.control.data.sb3 import SB3Policy
from unirl.control.distributions import Deterministic, Distribution, Gaussian, TanhGaussian
from unirl.control.envs import ActionSpace
from unirl.errors import UserError

EXPLORATION_STD = 0.1  # of deterministic teachers when they are sampled, in half-ranges (TD3)


class Teacher(nn.Module):
    """A Stable-Baselines3 policy as a frozen distribution over normalised actions.

    PPO and A2C are Gaussians in the environment's units, brought to normalised ones; SAC is a squashed Gaussian, TD3
    and DDPG are deterministic. It sees raw observations, so the run must not normalise them. Loading the `.zip` runs
    code that it holds (see `SB3Policy`). Raises `UserError` where the policy is for other spaces.
    """

    def __init__(self, path: str, observation_size: int, actions: ActionSpace) -> None:
        super().__init__()
        stored = SB3Policy(path)
        self._algorithm, self._policy = stored.algorithm, stored.model.policy
        seen, acted = self._policy.observation_space.shape, self._policy.action_space.shape
        if actions.discrete or seen != (observation_size,) or acted != (actions.size,):
            raise UserError(
                f"{path} acts on observations {seen} with actions {acted}; the task has "
                f"({observation_size},) and {'choices' if actions.discrete else (actions.size,)}"
            )
        self._centre, self._half_range = (torch.as_tensor(each, dtype=torch.float32) for each in actions.scale)
        self._policy.set_training_mode(False)
        self.requires_grad_(False)

    @torch.no_grad()
    def forward(self, observation: Tensor) -> Distribution:
        """pi(. | observation) for raw observations [..., O]."""
        flat = observation.reshape(-1, observation.shape[-1])
        shape = (*observation.shape[:-1], -1)
        if self._algorithm in ("PPO", "A2C"):
            normal = self._policy.get_distribution(flat).distribution
            mean, std = (normal.mean - self._centre) / self._half_range, normal.stddev / self._half_range
            return Gaussian(mean.reshape(shape), std.log().reshape(shape))
        if self._algorithm == "SAC":
            mean, log_std, _ = self._policy.actor.get_action_dist_params(flat)
            return TanhGaussian(mean.reshape(shape), log_std.reshape(shape))
        return Deterministic(self._policy.actor(flat).reshape(shape), EXPLORATION_STD)
