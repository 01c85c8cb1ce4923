"""Train SBX's SAC and evaluate its mode: `sbx_learning.py ENV STEPS SEED EPISODES` prints the mean return."""

import sys

import gymnasium
from sbx import SAC
from stable_baselines3.common.evaluation import evaluate_policy


def main(env: str, steps: int, seed: int, episodes: int) -> None:
    """The library's defaults, with as many random steps at the start as unirl takes."""
    model = SAC("MlpPolicy", env, seed=seed, learning_starts=1000)
    model.learn(steps)
    evaluation = gymnasium.make(env)
    evaluation.reset(seed=1000)
    mean, _ = evaluate_policy(model, evaluation, n_eval_episodes=episodes, deterministic=True, warn=False)
    print(f"score {float(mean)}")


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
