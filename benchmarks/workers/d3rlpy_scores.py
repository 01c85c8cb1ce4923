"""Train one of d3rlpy's offline algorithms: `d3rlpy_scores.py ALGORITHM DATA ENV UPDATES SEED EVALUATIONS EPISODES`.

Prints one JSON line: the mean return of its greedy policy before training and after every part of it, and the version.
"""

import json
import sys

import d3rlpy
import gymnasium
import h5py
import numpy as np
import torch

OPTIONS = {"TD3PlusBC": {"observation_scaler": d3rlpy.preprocessing.StandardObservationScaler()}, "IQL": {}}


def recorded(path: str) -> d3rlpy.dataset.MDPDataset:
    """The transitions of a D4RL-layout file."""
    with h5py.File(path) as file:
        data = {name: file[name][:] for name in ("observations", "actions", "rewards", "terminals", "timeouts")}
    ends = data["terminals"] | data["timeouts"]
    data["timeouts"][-1] |= not ends[-1]
    return d3rlpy.dataset.MDPDataset(
        data["observations"], data["actions"], data["rewards"], data["terminals"], data["timeouts"]
    )


def mean_return(learner: d3rlpy.algos.QLearningAlgoBase, env: gymnasium.Env, episodes: int) -> float:
    """Undiscounted, over episodes from fixed reset seeds."""
    returns = []
    for episode in range(episodes):
        observation, _ = env.reset(seed=1000 + episode)
        total, over = 0.0, False
        while not over:
            action = learner.predict(observation[None].astype(np.float32))[0]
            observation, reward, terminated, truncated, _ = env.step(np.clip(action, -1.0, 1.0))
            total, over = total + float(reward), terminated or truncated
        returns.append(total)
    return float(np.mean(returns))


def main(algorithm: str, path: str, env: str, updates: int, seed: int, evaluations: int, episodes: int) -> None:
    """The library's defaults, with batches of 256."""
    torch.set_num_threads(1)
    d3rlpy.seed(seed)
    dataset, world = recorded(path), gymnasium.make(env)
    config = getattr(d3rlpy.algos, f"{algorithm}Config")(batch_size=256, **OPTIONS.get(algorithm, {}))
    learner = config.create(device="cpu:0")
    learner.build_with_dataset(dataset)
    if config.observation_scaler is not None and not config.observation_scaler.built:
        config.observation_scaler.fit_with_transition_picker(dataset.episodes, dataset.transition_picker)
    scores = [mean_return(learner, world, episodes)]
    for step in range(1, updates + 1):
        learner.update(dataset.sample_transition_batch(256))
        if step % (updates // evaluations) == 0:
            scores.append(mean_return(learner, world, episodes))
    print(json.dumps({"scores": scores, "version": d3rlpy.__version__}))


if __name__ == "__main__":
    main(*sys.argv[1:4], *map(int, sys.argv[4:]))
