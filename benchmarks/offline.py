"""Offline methods on recordings of Hopper, with d3rlpy's of the same name: docs/benchmarks/offline.{json,md}.

python benchmarks/offline.py --data FOLDER      hours on two cores; FOLDER has hopper_medium-v5.hdf5 and the like
"""

from itertools import product
from pathlib import Path

import yaml
from scores import PeerRun, compare, parser, peers, write

from unirl.config import group_config

RECORDINGS = ("medium", "medium_replay", "medium_expert")
ALGORITHMS = {"td3_bc": "TD3PlusBC", "iql": "IQL", "cql": "CQL", "awac": "AWAC"}
EVALUATIONS, EPISODES = 5, 10
HEAD = """# Offline methods on Hopper

{updates:,} updates with batches of 256, {seeds} seeds; D4RL's normalised score (0: random, 100: expert) of the
policy's mode over {episodes} episodes: mean at the end (smallest to largest seed), and the mean of the best of
{evaluations} evaluations during training. Learning is short: papers train 50 times as long. The recordings (100,000
to 200,000 transitions of Hopper-v5 in D4RL's layout, made by a soft actor-critic) score 40.4 (medium) and 65
(medium-expert, half of it 89.6). `python benchmarks/offline.py` makes this page.

"""


def task_files(data: Path, folder: Path) -> list[Path]:
    """A task for each recording."""
    folder.mkdir(parents=True, exist_ok=True)
    made = []
    for recording in RECORDINGS:
        task = group_config("task", "d4rl/hopper-medium-v2") | {"data": str(data / f"hopper_{recording}-v5.hdf5")}
        task.pop("name")
        made.append(folder / f"hopper-{recording.replace('_', '-')}.yaml")
        made[-1].write_text(yaml.safe_dump(task))
    return made


def main() -> None:
    """Train, collect, write the page."""
    arguments = parser(__doc__, "updates", 20_000, "out/offline_hopper")
    arguments.add_argument("--data", type=Path, required=True)
    options = arguments.parse_args()
    tasks = task_files(options.data.resolve(), options.out / "tasks")
    overrides = [f"task=[{','.join(map(str, tasks))}]", f"seeds={options.seeds}", f"iterations={options.updates}"]
    overrides += [f"method=[{','.join(options.methods)}]"] if options.methods else []
    ours = compare("offline_hopper", options.out / "unirl", overrides)
    wanted = {name: peer for name, peer in ALGORITHMS.items() if not options.methods or name in options.methods}
    runs = [
        PeerRun(
            "d3rlpy",
            name,
            task.stem,
            seed,
            "d3rlpy_scores.py",
            (
                *(peer, yaml.safe_load(task.read_text())["data"], "Hopper-v5"),
                *map(str, (options.updates, seed, EVALUATIONS, EPISODES)),
            ),
        )
        for seed, task, (name, peer) in product(range(options.seeds), tasks, wanted.items())
    ]
    theirs = peers(runs, options.peers, options.out / "d3rlpy")
    head = HEAD.format(updates=options.updates, seeds=options.seeds, episodes=EPISODES, evaluations=EVALUATIONS)
    write("offline", head, [*ours, *theirs])


if __name__ == "__main__":
    main()
