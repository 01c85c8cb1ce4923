"""Offline methods on recordings of Hopper, with d3rlpy's of the same name: docs/benchmarks/offline.{json,md}.

python benchmarks/offline.py --data FOLDER      hours on two cores; FOLDER has hopper_medium-v5.hdf5 and the like
"""

from itertools import product
from pathlib import Path

import yaml
from scores import EPISODES, EVALUATIONS, Run, Scores, parser, tables, train_ours, train_peers, versions

from unirl.config import group_config

RECORDINGS = ("medium", "medium_replay", "medium_expert")
ALGORITHMS = {"td3_bc": "TD3PlusBC", "iql": "IQL", "cql": "CQL", "awac": "AWAC"}
HEAD = f"""# Offline methods on Hopper

Every offline method on three recordings, beside d3rlpy's of the same name; batches of 256 (ReBRAC: 1024), everything
else as the method's file or the library's default has it. D4RL's normalised score (0: random, 100: expert) of the
policy's mode over {EPISODES} episodes: mean over seeds at the end (smallest to largest), and the mean of the best of
{EVALUATIONS} evaluations during training. The recordings (100,000 to 200,000 transitions of Hopper-v5 in D4RL's layout,
made by a soft actor-critic) have mean returns of 40.4 (medium), 11.4 (medium-replay) and 55.9 (medium-expert).
Learning is short: papers train 50 to 200 times as long. `python benchmarks/offline.py` makes this page.

"""


def task_files(data: Path, folder: Path) -> dict[str, Path]:
    """A task for each recording."""
    folder.mkdir(parents=True, exist_ok=True)
    made = {}
    for recording in RECORDINGS:
        task = group_config("task", "d4rl/hopper-medium-v2") | {"data": str(data / f"hopper_{recording}-v5.hdf5")}
        task.pop("name")
        file = folder / f"hopper-{recording.replace('_', '-')}.yaml"
        file.write_text(yaml.safe_dump(task))
        made[file.stem] = file
    return made


def page(scores: Scores) -> str:
    """The page of the docs."""
    return HEAD + tables(scores, "updates") + "\n" + versions(scores)


def main() -> None:
    """Train what is lacking; the page grows with every run."""
    arguments = parser(__doc__, "updates", 5_000, "out/offline_hopper")
    arguments.add_argument("--data", type=Path, required=True)
    options = arguments.parse_args()
    scores = Scores("offline", page)
    tasks = task_files(options.data.resolve(), options.out / "tasks")
    train_ours(scores, "offline_hopper", {name: str(file) for name, file in tasks.items()}, options, "iterations")
    commands = {}
    for (name, peer), (task, file), seed in product(ALGORITHMS.items(), tasks.items(), range(options.seeds)):
        if not options.methods or name in options.methods:
            recording = yaml.safe_load(file.read_text())["data"]
            run = Run("d3rlpy", name, task, seed, options.budget)
            commands[run] = ("d3rlpy_scores.py", peer, recording, "Hopper-v5")
    train_peers(scores, commands, options.peers)


if __name__ == "__main__":
    main()
