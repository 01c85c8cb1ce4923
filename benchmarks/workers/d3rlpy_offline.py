"""d3rlpy's offline updates, without its logging: `d3rlpy_offline.py CHUNK ALGORITHM`."""

import sys
from importlib.metadata import version

import d3rlpy
import hopper_data
import torch
from pacer import Pacer

WARM_UP = 300


def main(chunk: int, algorithm: str) -> None:
    """Sample and update, with the library's defaults (batch 256, layers of 256), until the harness stops asking."""
    torch.set_num_threads(1)
    pacer = Pacer(chunk)
    data = hopper_data.arrays()
    dataset = d3rlpy.dataset.MDPDataset(
        data["observations"], data["actions"], data["rewards"], data["terminals"], data["timeouts"]
    )
    learner = getattr(d3rlpy.algos, f"{algorithm}Config")(batch_size=256).create(device="cpu:0")
    learner.build_with_dataset(dataset)
    for step in range(10**9):
        learner.update(dataset.sample_transition_batch(256))
        if step == WARM_UP:
            pacer.ready(d3rlpy=version("d3rlpy"), torch=version("torch"))
        elif step > WARM_UP:
            pacer.tick()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
