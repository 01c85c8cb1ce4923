"""One small budget for every method that trains both a control agent and a language model from one file.

Control: InvertedPendulum-v5, mean return of 10 episodes, 26 before training, at most 1000. Language: two-digit
addition, accuracy of one sampled answer to each of 800 held-out questions, 0.58 before training.

`least`: the rise that a run must reach. It was set from 5 seeds (`benchmarks/both_domains.py`, results in
docs/benchmarks.md): below every seed by a wide margin, and far above what a policy that does not learn shows. That is
0 by construction, as evaluation repeats the same starts and draws; the start differs between seeds by less than 3 in
control, and not at all in language, where all seeds begin with the same model.
"""

COMMON = {"control": ["task=inverted_pendulum"], "llm": ["task=addition"]}
LEAST = {"control": 20.0, "llm": 0.08}

BUDGETS: dict[tuple[str, str], list[str]] = {
    ("reinforce", "control"): ["samples=60000"],
    ("ppo", "control"): ["samples=16384"],
    ("grpo", "control"): ["samples=30000"],
    ("mdpo", "control"): ["samples=32768", "method.update.lr=1e-3"],
    ("awr", "control"): ["samples=20480"],
    ("bc", "control"): ["iterations=2000"],
    ("dpo", "control"): ["iterations=400"],
    ("ipo", "control"): ["iterations=400"],
    ("inpo", "control"): ["samples=40000"],
    ("best_of_n", "control"): ["samples=30000"],
    ("reinforce", "llm"): ["iterations=25"],
    ("ppo", "llm"): ["iterations=15"],
    ("grpo", "llm"): ["iterations=20"],
    ("mdpo", "llm"): ["iterations=15"],
    ("awr", "llm"): ["iterations=15"],
    ("bc", "llm"): ["iterations=100"],
    ("dpo", "llm"): ["iterations=150"],
    ("ipo", "llm"): ["iterations=150"],
    ("inpo", "llm"): ["iterations=20"],
    ("best_of_n", "llm"): ["iterations=15"],
}
METHODS = sorted({method for method, _ in BUDGETS})


def overrides(method: str, domain: str, seed: int, out: object) -> list[str]:
    """What is typed after `unirl train`."""
    words = [f"method={method}", *COMMON[domain], *BUDGETS[method, domain]]
    return [*words, f"seed={seed}", "evaluations=1", "checkpoints=0", f"out={out}"]
