"""Does what is fast learn as well? SAC on HalfCheetah in bfloat16, in float32, and by SBX: `benchmarks/learning.json`.

python benchmarks/learning.py --steps 50000 --seeds 3      9 runs, as many at a time as there are cores
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from itertools import product
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
EPISODES = 10
SIDES = ("bfloat16", "float32", "sbx")


def final_score(side: str, steps: int, seed: int, peers: str) -> float:
    """The mean return of the policy's mode after training, over `EPISODES` episodes."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"}
    if side == "sbx":
        words = [
            peers,
            str(HERE / "workers" / "sbx_learning.py"),
            "HalfCheetah-v5",
            str(steps),
            str(seed),
            str(EPISODES),
        ]
        done = subprocess.run(words, env=environment, capture_output=True, text=True, check=True)
        found = re.search(r"score (\S+)", done.stdout)
        assert found is not None, done.stdout
        return float(found[1])
    with tempfile.TemporaryDirectory() as folder:
        words = [sys.executable, "-m", "unirl.cli", "train", "method=sac", "task=halfcheetah", f"samples={steps}"]
        words += [f"seed={seed}", f"domain.precision={side}", f"evaluation_episodes={EPISODES}", "evaluations=1"]
        subprocess.run([*words, f"out={folder}/run", "--quiet"], env=environment, check=True)
        return float(json.loads((Path(folder) / "run" / "result.json").read_text())["score_end"])


def main() -> None:
    """Train all, write the scores, print mean and range of each side."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=50_000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--peers", default=".venv-peers/bin/python")
    options = parser.parse_args()
    cells = [(side, seed) for seed, side in product(range(options.seeds), SIDES)]

    def trained(cell: tuple[str, int]) -> dict[str, Any]:
        score = final_score(cell[0], options.steps, cell[1], options.peers)
        print(f"{cell[0]:9} seed {cell[1]}: {score:.0f}", flush=True)
        return {"side": cell[0], "seed": cell[1], "steps": options.steps, "score": score}

    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        runs = list(pool.map(trained, cells))
    (HERE / "learning.json").write_text(json.dumps(runs, indent=1) + "\n")
    for side in SIDES:
        scores = [run["score"] for run in runs if run["side"] == side]
        print(f"{side:9} mean {statistics.mean(scores):.0f}, {min(scores):.0f} to {max(scores):.0f}")


if __name__ == "__main__":
    main()
