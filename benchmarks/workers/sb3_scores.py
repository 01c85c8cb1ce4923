"""Train one of Stable-Baselines3's algorithms: `sb3_scores.py ALGORITHM ENV STEPS SEED EVALUATIONS EPISODES`.

Prints one JSON line: the mean return of its greedy policy before training and after every part of it, and the version.
"""

import json
import sys

import gymnasium
import stable_baselines3
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize


class Evaluate(BaseCallback):
    """Looks at the greedy policy every `every` steps."""

    def __init__(self, env: VecNormalize | DummyVecEnv, every: int, episodes: int) -> None:
        super().__init__()
        self.env, self.every, self.episodes = env, every, episodes
        self.scores: list[float] = []
        self._due = 0

    def _on_training_start(self) -> None:
        self._look()

    def _on_step(self) -> bool:
        if self.num_timesteps >= self._due:
            self._look()
        return True

    def _look(self) -> None:
        if isinstance(self.env, VecNormalize):
            self.env.obs_rms = self.training_env.obs_rms
        self.env.seed(1000)
        mean, _ = evaluate_policy(self.model, self.env, n_eval_episodes=self.episodes, warn=False)
        self.scores.append(float(mean))
        self._due += self.every


def main(algorithm: str, env: str, steps: int, seed: int, evaluations: int, episodes: int) -> None:
    """The library's defaults; PPO with normalised observations and rewards, as unirl's and as its zoo tunes it."""
    torch.set_num_threads(1)

    def world() -> DummyVecEnv:
        return DummyVecEnv([lambda: gymnasium.wrappers.RecordEpisodeStatistics(gymnasium.make(env))])

    training, evaluation = world(), world()
    if algorithm == "PPO":
        training = VecNormalize(training)
        evaluation = VecNormalize(evaluation, training=False, norm_reward=False)
    look = Evaluate(evaluation, steps // evaluations, episodes)
    getattr(stable_baselines3, algorithm)("MlpPolicy", training, seed=seed).learn(steps, callback=look)
    print(json.dumps({"scores": look.scores, "version": stable_baselines3.__version__}))


if __name__ == "__main__":
    main(*sys.argv[1:3], *map(int, sys.argv[3:]))
