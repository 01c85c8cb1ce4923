"""How a policy does in worlds that differ from the one it is meant for: a grid of perturbations, a plot, JSON.

What can be perturbed only a domain knows: one that can has a method `evaluate_perturbed(perturb, episodes, **how)`,
which takes numbers by name and gives what `evaluate` gives.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from unirl.errors import UserError
from unirl.perturbation import Grid
from unirl.run import load
from unirl.trainer.files import write_whole

FOLDER = "robustness"  # in the run folder
_GREY = "#7a7a7a"  # readable on white and on black alike, as are the lines' colours
_COLOURS = ("#2f7fc1", "#d9691a", "#1a9a72", "#b65fa5", "#a07d12", "#6b6fd6", "#cf4a41", "#4b8b9b")
_SIZE, _DPI = (5.6, 3.8), 150  # inches


def evaluate_perturbed(
    folder: Path | str, perturb: Mapping[str, Any], *, episodes: int | None = None, sampled: bool | None = None
) -> dict[str, Any]:
    """Evaluate a run's newest checkpoint over a grid of perturbed worlds; writes `robustness/NAMES.json` and `.png`.

    Returns what the JSON file holds: `swept`, `fixed`, `episodes`, one entry of `results` per world (its `perturb` and
    its metrics), and the paths `json` and `plot`. Every world is evaluated from the same reset seeds. Raises
    `UserError` where the run's domain has no worlds to perturb.
    """
    grid = Grid.of(perturb)
    trainer = load(folder)
    domain: Any = trainer.domain
    if not hasattr(domain, "evaluate_perturbed"):
        raise UserError(f"domain '{domain.info.name}' has no worlds to perturb")
    count = episodes or trainer.schedule.evaluation_episodes
    how = {} if sampled is None else {"sampled": sampled}
    results = [{"perturb": point, **domain.evaluate_perturbed(point, count, **how)} for point in grid.points()]
    path = Path(folder) / FOLDER / "_".join(grid.swept)
    report: dict[str, Any] = {
        "task": domain.info.task,
        "episodes": count,
        "swept": {name: list(values) for name, values in grid.swept.items()},
        "fixed": dict(grid.fixed),
        "results": results,
        "json": f"{path}.json",
        "plot": f"{path}.png",
    }
    write_whole(Path(report["json"]), json.dumps(report, indent=2) + "\n")
    save_plot(grid, results, Path(report["plot"]), title=f"{trainer.method.name} on {domain.info.task}")
    return report


def save_plot(grid: Grid, results: Sequence[Mapping[str, Any]], path: Path, title: str = "") -> None:
    """Score against the first quantity, a line for each value of the second; bands are one standard deviation."""
    figure = Figure(figsize=_SIZE, layout="constrained", dpi=_DPI)
    axes = figure.subplots()
    first, *second = grid.swept
    for index, value in enumerate(grid.swept[second[0]] if second else (None,)):
        chosen = [entry for entry in results if value is None or entry["perturb"][second[0]] == value]
        label = None if value is None else f"{second[0]} {value:.3g}"
        _line(axes, first, chosen, _COLOURS[index % len(_COLOURS)], label)
    if _geometric(grid.swept[first]):
        axes.set_xscale("log")
        axes.set_xticks(grid.swept[first], [f"{value:.3g}" for value in grid.swept[first]])
        axes.minorticks_off()
    _dress(axes, first, title)
    if second:
        figure.legend(loc="outside right upper", frameon=False, labelcolor=_GREY)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.patch.set_alpha(0.0)
    FigureCanvasAgg(figure).print_png(str(path))


def _line(axes: Axes, name: str, entries: Sequence[Mapping[str, Any]], colour: str, label: str | None) -> None:
    x = [entry["perturb"][name] for entry in entries]
    score = np.array([entry["score"] for entry in entries])
    spread = np.array([entry.get("score_std", 0.0) for entry in entries])
    axes.fill_between(x, score - spread, score + spread, color=colour, alpha=0.2, linewidth=0)
    axes.plot(x, score, "o-", color=colour, linewidth=1.8, markersize=4, label=label)


def _dress(axes: Axes, name: str, title: str) -> None:
    axes.patch.set_alpha(0.0)
    axes.set_title(title, fontsize=11, color=_GREY)
    axes.set_xlabel(name, color=_GREY)
    axes.set_ylabel("score (band: one standard deviation)", color=_GREY)
    axes.tick_params(colors=_GREY, which="both")
    axes.grid(color=_GREY, alpha=0.25, linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["bottom", "left"]].set_color(_GREY)


def _geometric(values: Sequence[float]) -> bool:
    return min(values) > 0 and max(values) / min(values) > 2
