"""Train every method of tests/both in both domains with several seeds; print and keep how far each rose.

python benchmarks/both_domains.py [SEEDS [METHOD ...]]       writes docs/benchmarks/both_domains.json
"""

import json
import statistics
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "both"))

from both_budgets import BUDGETS, LEAST, overrides  # noqa: E402


def train_one(cell: tuple[str, str, int]) -> dict[str, Any]:
    """One run's result."""
    from unirl.config import compose
    from unirl.run import train

    method, domain, seed = cell
    with tempfile.TemporaryDirectory() as folder:
        result = train(compose(overrides(method, domain, seed, Path(folder) / "run")))
    kept = ("score_start", "score_end", "seconds", "samples")
    return {"method": method, "domain": domain, "seed": seed, **{name: result[name] for name in kept}}


def main(seeds: int, methods: list[str]) -> None:
    """Run all cells, two at a time."""
    chosen = [key for key in BUDGETS if not methods or key[0] in methods or "/".join(key) in methods]
    cells = [(method, domain, seed) for seed in range(seeds) for method, domain in chosen]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        results = list(pool.map(train_one, cells))
    target = ROOT / "docs" / "benchmarks" / "both_domains.json"
    target.parent.mkdir(exist_ok=True)
    before = json.loads(target.read_text()) if target.exists() else []
    kept = [row for row in before if (row["method"], row["domain"]) not in chosen]
    target.write_text(json.dumps([*kept, *results], indent=1) + "\n")
    for method, domain in chosen:
        rows = [row for row in results if (row["method"], row["domain"]) == (method, domain)]
        rises = [row["score_end"] - row["score_start"] for row in rows]
        print(
            f"{method:10} {domain:8} start {statistics.mean(row['score_start'] for row in rows):8.3f}  "
            f"rise min {min(rises):8.3f} mean {statistics.mean(rises):8.3f} max {max(rises):8.3f}  "
            f"least {LEAST[domain]}  {statistics.mean(row['seconds'] for row in rows):5.1f} s"
        )


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5, sys.argv[2:])
