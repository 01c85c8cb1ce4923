"""Policies trained with Stable-Baselines3, as behaviour policies, teachers and opponents."""

import json
import re
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from unirl.errors import UserError

_ALGORITHMS = ("PPO", "A2C", "SAC", "TD3", "DDPG")

Array = NDArray[Any]


class SB3Policy:
    """The policy in a Stable-Baselines3 `.zip`.

    Loading such a file runs code that it contains (it holds pickled objects): load only files you trust. Nothing in
    unirl looks for them; a path must be given.

    `algorithm`: "auto" reads it from the file (DDPG, whose policy is TD3's, counts as TD3), else one of PPO, A2C, SAC,
    TD3, DDPG. Raises `UserError` where
    Stable-Baselines3 is not installed, the file is no such file, or the algorithm is another one.
    """

    def __init__(self, path: Path | str, algorithm: str = "auto") -> None:
        path = Path(path).expanduser()
        name = _algorithm_of(path) if algorithm == "auto" else algorithm.upper()
        if name not in _ALGORITHMS:
            raise UserError(f"{path.name}: algorithm '{name}' is not one of {', '.join(_ALGORITHMS)}")
        try:
            import stable_baselines3
        except ModuleNotFoundError as error:
            raise UserError(
                f"{path.name} needs Stable-Baselines3, which is not installed: pip install stable-baselines3"
            ) from error
        self.algorithm = name
        try:
            self.model: Any = getattr(stable_baselines3, name).load(path, device="cpu")
        except (ValueError, KeyError, RuntimeError, AttributeError) as error:
            raise UserError(f"{path} cannot be loaded as a {name} model ({str(error).splitlines()[0]})") from error

    def act(self, observation: Array, deterministic: bool = False) -> Array:
        """Actions [B, A] in the environment's units for observations [B, O]."""
        actions, _ = self.model.predict(observation, deterministic=deterministic)
        return np.asarray(actions)

    def __call__(self, observation: Array) -> Array:
        """A sampled action per observation, where the policy has a distribution."""
        return self.act(observation)

    def log_prob(self, observation: Array, action: Array) -> Array:
        """Log pi(a|s), [B], a density over the environment's action units.

        SAC: a Gaussian squashed by tanh and stretched to the action range (actions at the range's ends are moved
        inside by 1e-6). PPO, A2C: the Gaussian before clipping. Raises `UserError` for TD3 and DDPG, whose policies
        have no density.
        """
        policy = self.model.policy
        with torch.no_grad():
            states = policy.obs_to_tensor(observation)[0]
            if self.algorithm in ("PPO", "A2C"):
                distribution = policy.get_distribution(states)
                return np.asarray(distribution.log_prob(torch.as_tensor(action, dtype=torch.float32)))
            if self.algorithm == "SAC":
                squashed = torch.as_tensor(policy.scale_action(action), dtype=torch.float32).clamp(-1 + 1e-6, 1 - 1e-6)
                mean, log_std, extra = policy.actor.get_action_dist_params(states)
                distribution = policy.actor.action_dist.proba_distribution(mean, log_std, **extra)
                half_range = (policy.action_space.high - policy.action_space.low) / 2
                return np.asarray(distribution.log_prob(squashed)) - float(np.log(half_range).sum())
        raise UserError(f"{self.algorithm} policies are deterministic: they have no log-probability")


def _algorithm_of(path: Path) -> str:
    """Read the policy's module from the JSON part of the file, without unpickling anything."""
    if not path.is_file():
        raise UserError(f"SB3 policy {path} does not exist")
    try:
        with zipfile.ZipFile(path) as archive:
            described = json.loads(archive.read("data"))
            files = set(archive.namelist())
    except (zipfile.BadZipFile, KeyError, ValueError) as error:
        raise UserError(f"{path} is not a Stable-Baselines3 file ({error})") from error
    module = str(described.get("policy_class", {}).get("__module__", ""))
    found = re.match(r"stable_baselines3\.(ppo|a2c|sac|td3|ddpg)\.", module)
    if found:
        return found[1].upper()
    if "n_epochs" in described and "clip_range" in described and "policy.pth" in files:
        return "PPO"
    if "ent_coef" in described and "n_steps" in described:
        return "A2C"
    raise UserError(f"{path.name}: cannot tell which algorithm made it; give one of {', '.join(_ALGORITHMS)}")
