"""Online methods on Hopper and HalfCheetah, beside Stable-Baselines3's: docs/benchmarks/online.{json,md}.

python benchmarks/online.py      hours on two cores
"""

from itertools import product

from scores import PeerRun, compare, parser, peers, write

ENVIRONMENTS = {"hopper": "Hopper-v5", "halfcheetah": "HalfCheetah-v5"}
ALGORITHMS = ("SAC", "TD3", "PPO")
EVALUATIONS, EPISODES = 5, 10
HEAD = """# Online methods on MuJoCo

{steps:,} environment steps, {seeds} seeds, two layers of 256 for all of unirl's methods and each library's own
defaults otherwise. D4RL's normalised score (0: random, 100: expert) of the policy's mode over {episodes} episodes:
mean at the end (smallest to largest seed), and the mean of the best of {evaluations} evaluations during training.
Learning is short: papers train 20 times as long. `python benchmarks/online.py` makes this page.

"""


def main() -> None:
    """Train, collect, write the page."""
    arguments = parser(__doc__, "steps", 50_000, "out/online")
    options = arguments.parse_args()
    overrides = [f"seeds={options.seeds}", f"samples={options.steps}"]
    overrides += [f"method=[{','.join(options.methods)}]"] if options.methods else []
    ours = compare("online", options.out / "unirl", overrides)
    runs = [
        PeerRun(
            "stable-baselines3",
            algorithm.lower(),
            task,
            seed,
            "sb3_scores.py",
            (algorithm, environment, *map(str, (options.steps, seed, EVALUATIONS, EPISODES))),
        )
        for seed, (task, environment), algorithm in product(range(options.seeds), ENVIRONMENTS.items(), ALGORITHMS)
        if not options.methods or algorithm.lower() in options.methods
    ]
    theirs = peers(runs, options.peers, options.out / "stable-baselines3")
    head = HEAD.format(steps=options.steps, seeds=options.seeds, episodes=EPISODES, evaluations=EVALUATIONS)
    write("online", head, [*ours, *theirs])


if __name__ == "__main__":
    main()
