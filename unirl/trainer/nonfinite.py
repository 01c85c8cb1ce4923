"""What is kept of a step whose loss or gradient was NaN or infinite, so that somebody can find out why."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import Tensor

from unirl.batch import Batch
from unirl.errors import NonFiniteError, UserError
from unirl.trainer.statefile import save_state

FOLDER, REPORT = "nonfinite", "report.json"


def report_nonfinite(folder: Path, iteration: int, error: NonFiniteError, minibatch: Batch, scored: Batch) -> UserError:
    """Save the minibatch into `folder/nonfinite`; returns the line for the user.

    `scored` is the minibatch with the fields that the losses differentiate (or one micro-batch of it). The folder
    gets `report.json` (iteration, losses, gradient norm, how many values of which field are not finite) and the
    minibatch itself: `Batch(**load_state(folder / "nonfinite"))`. `resume` reaches the same step again.
    """
    counts = {**nonfinite_values(minibatch), **nonfinite_values(scored)}
    report = {
        "iteration": iteration,
        "stepped": list(error.names),
        "losses": {name: repr(value) for name, value in error.losses.items()},
        "gradient_norm": repr(error.gradient_norm),
        "nonfinite_fields": counts,
    }
    losses = ", ".join(f"loss/{name} {value:.3g}" for name, value in error.losses.items())
    what = f"iteration {iteration}: {losses}, gradient norm {error.gradient_norm:.3g}"
    where = f"; not finite: {', '.join(f'{name} ({count} values)' for name, count in counts.items())}" if counts else ""
    kept = folder / FOLDER
    try:
        kept.mkdir(parents=True, exist_ok=True)
        save_state(minibatch.fields(), kept)
        (kept / REPORT).write_text(json.dumps(report, indent=2) + "\n")
    except OSError as problem:
        return UserError(f"{what}{where}; the weights were not stepped (saving the batch: {problem.strerror})")
    return UserError(f"{what}{where}; the weights were not stepped, the batch is in {kept}")


def nonfinite_values(batch: Batch) -> dict[str, int]:
    """How many values are NaN or infinite, for each field that has some; nested fields as `anchor_logp.ref`."""
    counts = {name: int((~leaf.isfinite()).sum()) for name, leaf in _leaves(batch.fields())}
    return {name: count for name, count in counts.items() if count}


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Tensor]]:
    if isinstance(value, Tensor):
        yield path, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, f"{path}.{name}" if path else name)
