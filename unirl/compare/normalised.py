"""Scores of different tasks on one scale, in percent, so that they can be averaged."""

import math
from collections.abc import Mapping
from typing import Any

NORMALISED = "eval/normalized_score"
SHARES = {"eval/accuracy": "right answers", "eval/win_rate": "comparisons won"}  # between 0 and 1


def normalised_score(row: Mapping[str, Any], score: float, task: Mapping[str, Any]) -> float:
    """The score of one evaluation in percent; nan where the task has no scale.

    `row` is a line of `metrics.jsonl`. In this order: what the domain reports (control: D4RL's normalisation); the
    task's own `reference_score: {random: R, expert: E}`, as 100 (score - R) / (E - R); a verifier's accuracy or a win
    rate. Nothing is normalised by the compared runs themselves: one more method would change the others' numbers.
    """
    if row.get(NORMALISED) is not None:
        return float(row[NORMALISED])
    reference = task.get("reference_score")
    if reference:
        return 100 * (score - float(reference["random"])) / (float(reference["expert"]) - float(reference["random"]))
    return next((100 * float(row[name]) for name in SHARES if row.get(name) is not None), math.nan)


def scale_text(row: Mapping[str, Any], task: Mapping[str, Any]) -> str:
    """What 0 and 100 are on a task's scale; empty where it has none."""
    reference = task.get("reference_score")
    if reference:
        return f"0 is a score of {reference['random']:g}, 100 a score of {reference['expert']:g}"
    if row.get(NORMALISED) is not None:
        return "0 is a random policy, 100 an expert (D4RL)"
    return next((f"the share of {of} in percent" for name, of in SHARES.items() if row.get(name) is not None), "")
