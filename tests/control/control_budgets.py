"""One small budget for every method of control alone, on InvertedPendulum-v5: 1 per step that the pole stays up.

An episode has 1000 steps at the most; without training it has 4 to 26 (a lucky start of `pmoe`: 90). Offline methods
see 20 episodes of the scripted expert with noise of 0.3 or 0.5 on its actions; methods of imitation see clean ones
beside. What trains in both worlds stands in `tests/both/both_budgets.py`.

`LEAST`: what the last evaluation must reach. Where 300 is asked, seeds 0 and 1 ended between 635 and 1000; where less
is, the lowest ended at 33 (`pa_rl`, of which 20 is asked), 50 (`a2pr`, 35), 51 (`ddpg`), 52 (`td3`), 57 (`h2o`), 60
(`sac_n`), 65 (`edac`), 67 (`pmoe`), 75 (`cql`) and above. Symphony has ten times its rate (95, 118; 23 with its own).
IQ-Learn offline learns at a rate of 1e-3 (1000, 1000; a third seed 61).
"""

NOISY = "task.demonstrations.noise=0.3"
NOISIER = "task.demonstrations.noise=0.5"
STEPS = ["samples=4000", "method.source.warmup=1000"]

BUDGETS: dict[str, list[str]] = {
    # recorded data
    "td3_bc": [NOISY, "iterations=1000"],
    "prdc": [NOISY, "iterations=1000"],
    "a2pr": [NOISY, "iterations=1000", "method.critic.2.hidden=64"],
    "rebrac": [NOISY, "iterations=1000", "method.source.batch=256", "method.regularizers.0.coef=1.0"],
    "awac": [NOISY, "iterations=1000"],
    "iql": [NOISY, "iterations=1000"],
    "xql": [NOISY, "iterations=1000"],
    "f_dvl": [NOISY, "iterations=1000"],
    "o_dice": [NOISY, "iterations=1000"],
    "cql": [NOISIER, "iterations=1000"],
    "cql_lagrange": [NOISIER, "iterations=1000"],
    "sac_n": [NOISIER, "iterations=3000"],
    "edac": [NOISIER, "iterations=3000"],
    "rvs_r": [NOISY, "iterations=1000"],
    "decision_transformer": [NOISY, "iterations=100"],
    "pa_rl": [NOISIER, "iterations=600", "method.objective.candidates=6", "method.objective.keep=3",
              "method.objective.steps=1", "method.critic.0.heads=2", "method.critic.1.candidates=4"],
    # an expert's data beside a mixture
    "recoil": [NOISIER, "iterations=1000"],
    "smodice": [NOISIER, "iterations=1000"],
    "iq_learn_offline": [NOISIER, "iterations=3000", "method.update.lr=1e-3"],
    "iq_learn": [*STEPS, "method.update.lr=3e-4"],
    # a simulator whose gravity is wrong
    "h2o": ["samples=3000", "task.simulator={perturb:{gravity:2}}", "task.demonstrations.noise=0.5"],
    # own steps
    "sac": STEPS,
    "td3": STEPS,
    "ddpg": STEPS,
    "dsac_t": STEPS,
    "stac": STEPS,
    "tqc": STEPS,
    "crossq": STEPS,
    "redq": ["samples=1400", "method.source.warmup=1000"],
    "symphony": [*STEPS, "method.source.memory.repeat=5", "method.update.lr=1e-3", "method.critic.0.tau=0.005"],
    "mdpo_off": STEPS,
    "pmoe": STEPS,
}  # fmt: skip

SOLVED = (
    "td3_bc",
    "prdc",
    "rebrac",
    "awac",
    "iql",
    "xql",
    "f_dvl",
    "o_dice",
    "rvs_r",
    "decision_transformer",
    "recoil",
)
LEAST = dict.fromkeys(BUDGETS, 30.0) | dict.fromkeys(SOLVED, 300.0) | {"smodice": 60.0, "a2pr": 35.0, "pa_rl": 20.0}


def overrides(method: str, seed: int, out: object) -> list[str]:
    """What is typed after `unirl train`."""
    words = [f"method={method}", "domain=control", "task=inverted_pendulum", *BUDGETS[method]]
    return [*words, f"seed={seed}", "evaluations=4", "checkpoints=0", f"out={out}"]
