"""Learning curves as PNG, for a README or a paper."""

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from unirl.compare.chart import compact
from unirl.compare.results import Results
from unirl.compare.tables import Tables, TaskTable

COLOURS = (  # as in report.css
    "#0072b2", "#d55e00", "#009e73", "#b4469a", "#8c6d00", "#3d3fb8", "#b3261e", "#4b8b9b", "#7a5230", "#5f6570",
)  # fmt: skip
DASHES = ("-", "--", ":")
COLUMNS = 3
DPI = 150
PANEL = (4.6, 3.3)  # inches


def save_curves(results: Results, tables: Tables, path: Path, domain: str | None = None) -> None:
    """One panel per task (of one domain): score against samples, interquartile mean with its 95 % interval."""
    shown = [table for table in tables.tasks if domain in (None, table.domain)]
    columns = min(COLUMNS, len(shown))
    rows = -(-len(shown) // columns)
    figure = Figure(figsize=(PANEL[0] * columns, PANEL[1] * rows + 0.45), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False)
    for place in axes.flat[len(shown) :]:
        place.axis("off")
    for place, table in zip(axes.flat, shown, strict=False):
        _panel(place, table, results.methods)
    handles = {line.get_label(): line for place in axes.flat for line in place.get_lines()}
    if handles:
        figure.legend(
            handles.values(), handles.keys(), loc="outside upper center", ncols=min(8, len(handles)), frameon=False
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.set_dpi(DPI)
    FigureCanvasAgg(figure).print_png(str(path))


def _panel(axes: Axes, table: TaskTable, methods: Sequence[str]) -> None:
    for index, method in enumerate(methods):
        found = table.bands["samples"].get(method)
        if found is not None and found.x:
            colour, dash = COLOURS[index % len(COLOURS)], DASHES[index // len(COLOURS) % len(DASHES)]
            axes.fill_between(found.x, found.low, found.high, color=colour, alpha=0.15, linewidth=0)
            axes.plot(found.x, found.value, dash, color=colour, linewidth=1.8, label=method)
    axes.set_title(f"{table.task} ({table.domain})", fontsize=11)
    axes.set_xlabel(f"samples ({table.unit})" if table.unit else "samples")
    axes.set_ylabel("score")
    axes.xaxis.set_major_formatter(lambda value, position: compact(value))
    axes.grid(alpha=0.25, linewidth=0.7)
    axes.spines[["top", "right"]].set_visible(False)
