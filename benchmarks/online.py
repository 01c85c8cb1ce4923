"""Online methods on Hopper and HalfCheetah, beside Stable-Baselines3's: docs/benchmarks/online.{json,md}.

python benchmarks/online.py      hours on two cores
"""

from itertools import product

from scores import EPISODES, EVALUATIONS, Run, Scores, parser, tables, train_ours, train_peers, versions

ENVIRONMENTS = {"hopper": "Hopper-v5", "halfcheetah": "HalfCheetah-v5"}
ALGORITHMS = ("SAC", "TD3", "PPO")
HEAD = f"""# Online methods on MuJoCo

Two layers of 256 for all of unirl's methods and each library's own defaults otherwise. D4RL's normalised score (0:
random, 100: expert) of the policy's mode over {EPISODES} episodes: mean over seeds at the end (smallest to largest),
and the mean of the best of {EVALUATIONS} evaluations during training. Learning is short: papers train 20 times as
long. `python benchmarks/online.py` makes this page.

"""


def page(scores: Scores) -> str:
    """The page of the docs."""
    return HEAD + tables(scores, "steps of the environment") + "\n" + versions(scores)


def main() -> None:
    """Train what is lacking; the page grows with every run."""
    options = parser(__doc__, "steps", 50_000, "out/online").parse_args()
    scores = Scores("online", page)
    train_ours(scores, "online", {name: name for name in ENVIRONMENTS}, options, "samples")
    commands = {
        Run("stable-baselines3", algorithm.lower(), task, seed, options.budget): ("sb3_scores.py", algorithm, world)
        for algorithm, (task, world), seed in product(ALGORITHMS, ENVIRONMENTS.items(), range(options.seeds))
        if not options.methods or algorithm.lower() in options.methods
    }
    train_peers(scores, commands, options.peers)


if __name__ == "__main__":
    main()
