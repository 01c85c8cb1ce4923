"""How fast is it? Every comparison prints one JSON line; together they write `benchmarks/results.md`.

make bench                                   all of them, on one core, about 25 minutes
python benchmarks/run.py sac_sbx ppo_sb3     some of them, with --pairs N and --core K
"""

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path

from pairs import Comparison, Side, compare
from table import write_table

HERE = Path(__file__).parent
CONTROL = ("domain=control", "samples=1000000000")


def comparisons(ours: str, peers: str) -> dict[str, Comparison]:
    """All comparisons by name, for the interpreters of the two environments."""

    def unirl(*arguments: str) -> Side:
        return Side("unirl", ours, "unirl_train.py", arguments)

    def baselines(library: str, algorithm: str, chunk: str, options: str) -> Side:
        return Side(library, peers, "stable_baselines.py", (chunk, library, algorithm, "HalfCheetah-v5", options))

    def offline(algorithm: str) -> Side:
        return Side("d3rlpy", peers, "d3rlpy_offline.py", ("500", algorithm))

    sac = ("300", "samples", "400", "method=sac", "task=halfcheetah", *CONTROL)
    ppo = ("8192", "samples", "2", "method=ppo", "task=halfcheetah", "model=mlp_small", *CONTROL)
    recorded = ("task=hopper", "task.data={folder}/hopper.hdf5", *CONTROL)
    off_policy = ("task=halfcheetah", "method.source.updates=100", *CONTROL)
    sac_options, ppo_options = '{"warmup": 600, "learning_starts": 100}', '{"warmup": 4096}'
    million = ("task=hopper", "task.data={folder}/hopper_million.hdf5", *CONTROL)

    def grpo(vocabulary: int, pieces: int, target: float) -> Comparison:
        sides = (
            Side(name, python, f"{name}_grpo.py", ("1", str(pieces), str(vocabulary)))
            for name, python in (("unirl", ours), ("trl", peers))
        )
        name = f"grpo_trl_{vocabulary}_in_{pieces}"
        memory = 0.35 if vocabulary > 4096 else None
        return Comparison(name, "completion tokens/s", *sides, cores=(0, 1), target=target, memory_target=memory)

    def scoring(case: str, target: float | None = None) -> Comparison:
        sides = (
            Side(name, ours, "llm_scoring.py", (side, case, "16384"))
            for name, side in (("unirl", "packed"), ("padded", "padded"))
        )
        return Comparison(f"scoring_{case}", "prompt and response tokens/s", *sides, target=target)

    def generation(name: str, vocabulary: int, end: float, target: float | None = None) -> Comparison:
        sides = (
            Side(library, ours, f"{library}_generation.py", ("1", str(vocabulary), str(end)))
            for library in ("unirl", "transformers")
        )
        return Comparison(f"generate_{name}", "drawn tokens/s", *sides, target=target)

    found = [
        Comparison(
            "sac_sbx", "environment steps/s", unirl(*sac), baselines("sbx", "SAC", "300", sac_options), target=1.35
        ),
        Comparison(
            "sac_sb3", "environment steps/s", unirl(*sac), baselines("sb3", "SAC", "300", sac_options), target=2.0
        ),
        Comparison(
            "sac_float32_sbx",
            "environment steps/s",
            unirl(*sac, "domain.precision=float32"),
            baselines("sbx", "SAC", "300", sac_options),
            target=1.0,
        ),
        Comparison(
            "ppo_sb3", "environment steps/s", unirl(*ppo), baselines("sb3", "PPO", "8192", ppo_options), target=1.5
        ),
        Comparison("ppo_sbx", "environment steps/s", unirl(*ppo), baselines("sbx", "PPO", "8192", ppo_options)),
        *(
            Comparison(
                f"{method}_d3rlpy",
                "updates/s",
                unirl("500", "iterations", "300", f"method={method}", *recorded),
                offline(algorithm),
                target=1.5,
            )
            for method, algorithm in (("td3_bc", "TD3PlusBC"), ("iql", "IQL"))
        ),
        *(
            Comparison(
                f"{method}_plain",
                "updates/s",
                unirl("500", "iterations", "300", f"method={method}", *recorded),
                Side("single-file code", ours, "plain_offline.py", ("500", method)),
                target=1.3,
            )
            for method in ("td3_bc", "iql")
        ),
        Comparison(
            "dsac_t_sac",
            "updates/s",
            unirl("300", "iterations", "400", "method=dsac_t", *off_policy),
            replace(unirl("300", "iterations", "400", "method=sac", *off_policy), name="sac"),
            target=0.8,
        ),
        Comparison(
            "ten_critics",
            "updates/s",
            unirl("200", "iterations", "300", "method=sac", "method.critic.heads=10", *off_policy),
            replace(unirl("200", "iterations", "300", "method=sac", *off_policy), name="two critics"),
            target=0.25,
        ),
        Comparison(
            "prdc_td3_bc",
            "updates/s, a million rows",
            unirl("500", "iterations", "300", "method=prdc", *million),
            replace(unirl("500", "iterations", "300", "method=td3_bc", *million), name="td3_bc"),
            target=round(1 / 1.3, 3),
        ),
        generation("4096", 4096, end=0.03, target=1.3),
        generation("32768", 32768, end=0.03, target=1.3),
        generation("equal_lengths", 4096, end=0.0),
        grpo(4096, 1, target=1.7),
        grpo(32768, 1, target=2.2),
        grpo(32768, 4, target=2.2),
        scoring("mixed", target=1.6),
        *(scoring(case) for case in ("64x64", "256x128", "512x128")),
        scoring("1024x128", target=2.5),
    ]
    return {comparison.name: comparison for comparison in found}


def main() -> None:
    """Run the named comparisons, or all; results of earlier runs stay in the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--pairs", type=int)
    parser.add_argument("--core", type=int, default=0)
    parser.add_argument("--ours", default=sys.executable)
    parser.add_argument("--peers", default=".venv-peers/bin/python")
    options = parser.parse_args()
    known = comparisons(options.ours, options.peers)
    for name in options.names or known:
        comparison = replace(known[name], pairs=options.pairs or known[name].pairs)
        if len(comparison.cores) == 1:
            comparison = replace(comparison, cores=(options.core,))
        result = compare(comparison)
        print(json.dumps(result), flush=True)
        write_table(HERE, result)


if __name__ == "__main__":
    main()
