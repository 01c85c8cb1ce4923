"""Learning curves as PNG, for a README or a paper."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from unirl.compare.chart import compact
from unirl.compare.curves import band
from unirl.compare.results import Results

COLOURS = (  # as in report.css
    "#0072b2", "#d55e00", "#009e73", "#b4469a", "#8c6d00", "#3d3fb8", "#b3261e", "#4b8b9b", "#7a5230", "#5f6570",
)  # fmt: skip
DASHES = ("-", "--", ":")
COLUMNS = 3
DPI = 150
PANEL = (4.6, 3.3)  # inches


def save_curves(results: Results, path: Path, tasks: Sequence[tuple[str, str]] | None = None) -> None:
    """One panel per (domain, task): score against samples, mean over seeds, band from the lowest to the highest."""
    tasks = results.tasks if tasks is None else tasks
    columns = min(COLUMNS, len(tasks))
    rows = -(-len(tasks) // columns)
    figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * rows + 0.45), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for place in axes.flat[len(tasks) :]:
        place.axis("off")
    for place, (domain, task) in zip(axes.flat, tasks, strict=False):
        _panel(place, results, domain, task)
    handles = {line.get_label(): line for place in axes.flat for line in place.get_lines()}
    if handles:
        figure.legend(
            handles.values(), handles.keys(), loc="outside upper center", ncols=min(8, len(handles)), frameon=False
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.set_dpi(DPI)
    FigureCanvasAgg(figure).print_png(str(path))


def _panel(axes: Axes, results: Results, domain: str, task: str) -> None:
    for index, method in enumerate(results.methods):
        found = band(results.of(method, task), "samples")
        if found.x:
            colour, dash = COLOURS[index % len(COLOURS)], DASHES[index // len(COLOURS) % len(DASHES)]
            axes.fill_between(found.x, found.low, found.high, color=colour, alpha=0.15, linewidth=0)
            axes.plot(found.x, found.mean, dash, color=colour, linewidth=1.8, label=method)
    axes.set_title(f"{task} ({domain})", fontsize=11)
    units = [str(run.result["sample_unit"]) for run in results.runs if run.task == task and "sample_unit" in run.result]
    axes.set_xlabel(f"samples ({units[0]})" if units else "samples")
    axes.set_ylabel("score")
    axes.xaxis.set_major_formatter(lambda value, position: compact(value))
    axes.grid(alpha=0.25, linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
