"""unirl's side: any run, iteration by iteration. `unirl_train.py CHUNK UNIT WARM_UP key=value ...`

UNIT is `samples` (decisions in the world) or `iterations` (one source batch each); WARM_UP iterations come before the
first chunk. `{folder}` in a value is a folder with a `hopper.hdf5` of random transitions, or `hopper_million.hdf5`.
"""

import sys
import tempfile
from pathlib import Path

import h5py
import hopper_data
from pacer import Pacer

from unirl.config import compose
from unirl.run import build, versions
from unirl.trainer.loop import Trainer

FILES = {"hopper.hdf5": hopper_data.ROWS, "hopper_million.hdf5": 1_000_000}


def trainer_of(overrides: list[str], folder: Path) -> Trainer:
    """The run that the overrides describe."""
    for name, rows in FILES.items():
        if any(name in word for word in overrides):
            with h5py.File(folder / name, "w") as file:
                for key, values in hopper_data.arrays(rows).items():
                    file[key] = values
    return build(compose([*(word.format(folder=folder) for word in overrides), f"out={folder}/run"]), None)


def main(chunk: int, unit: str, warm_up: int, overrides: list[str]) -> None:
    """Train until the harness stops asking."""
    pacer = Pacer(chunk)
    with tempfile.TemporaryDirectory() as folder:
        trainer = trainer_of(overrides, Path(folder))
    for _ in range(warm_up):
        trainer.iterate()
    pacer.ready(**versions())
    while True:
        before = trainer.source.samples
        trainer.iterate()
        pacer.tick(trainer.source.samples - before if unit == "samples" else 1)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4:])
