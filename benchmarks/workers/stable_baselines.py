"""Stable-Baselines3 or SBX: `stable_baselines.py CHUNK LIBRARY ALGORITHM ENV [hyper-parameters as JSON]`."""

import json
import sys
from importlib import import_module
from importlib.metadata import version

import torch
from pacer import Pacer
from stable_baselines3.common.callbacks import BaseCallback


class Pace(BaseCallback):
    """One tick per environment step, once learning has begun and compiled."""

    def __init__(self, pacer: Pacer, warmup: int, versions: dict[str, str]) -> None:
        super().__init__()
        self.pacer, self.warmup, self.versions = pacer, warmup, versions

    def _on_step(self) -> bool:
        if self.num_timesteps == self.warmup:
            self.pacer.ready(**self.versions)
        elif self.num_timesteps > self.warmup:
            self.pacer.tick(1)
        return True


def main(chunk: int, library: str, algorithm: str, env: str, options: str = "{}") -> None:
    """Train with the library's defaults, plus `options`, until the harness stops asking."""
    torch.set_num_threads(1)
    pacer = Pacer(chunk)
    chosen = json.loads(options)
    warmup = chosen.pop("warmup")
    package = {"sb3": "stable-baselines3", "sbx": "sbx-rl"}[library]
    versions = {name: version(name) for name in (package, *(("jax",) if library == "sbx" else ("torch",)))}
    module = import_module({"sb3": "stable_baselines3", "sbx": "sbx"}[library])
    device = {"device": "cpu"} if library == "sb3" else {}
    model = getattr(module, algorithm)("MlpPolicy", env, seed=0, **device, **chosen)
    model.learn(10**9, callback=Pace(pacer, warmup, versions))


if __name__ == "__main__":
    main(int(sys.argv[1]), *sys.argv[2:])
