"""Line charts as plain SVG paths that stretch to any width: no library is needed to look at a report.

Coordinates lie in a box of 1000 x 1000 which the page stretches (`preserveAspectRatio="none"`) with lines that keep
their width (`vector-effect: non-scaling-stroke`). Labels are HTML placed in percent, so text is never scaled.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from unirl.compare.curves import Band
from unirl.compare.statistics import Estimate

BOX = 1000.0
MARGIN = 0.06  # of the score range, above and below
HOVER_DIGITS = 5


@dataclass(frozen=True)
class Whisker:
    """A value and its interval on an axis, in percent of its length; without an interval `low` equals `high`."""

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Tick:
    """A labelled place on an axis, in percent of its length."""

    percent: float
    label: str


@dataclass(frozen=True)
class Series:
    """One method's line and band as SVG path data; `style` is the number of its colour."""

    name: str
    style: int
    line: str
    area: str


@dataclass(frozen=True)
class Chart:
    """All that the page's template needs to draw one chart. `hover` is JSON for the read-out under the pointer."""

    axis: str
    x_label: str
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    series: tuple[Series, ...]
    hover: str


def line_chart(bands: Mapping[str, Band], styles: Mapping[str, int], axis: str, x_label: str) -> Chart | None:
    """Draw one line per method with at least two points; None if there is none."""
    bands = {name: band for name, band in bands.items() if len(band.x) > 1}
    if not bands:
        return None
    right = max(band.x[-1] for band in bands.values()) or 1.0
    edges = [y for band in bands.values() for y in (*band.value, *band.low, *band.high) if math.isfinite(y)]
    low, high = padded(min(edges), max(edges))
    series = tuple(_series(name, band, styles[name], right, low, high) for name, band in bands.items())
    return Chart(
        axis=axis,
        x_label=x_label,
        x_ticks=tuple(Tick(100 * value / right, compact(value)) for value in ticks(0.0, right, 5)),
        y_ticks=tuple(Tick(100 * (v - low) / (high - low), f"{v:,.10g}") for v in ticks(low, high, 5)),
        series=series,
        hover=_hover(bands, styles, right, low, high),
    )


def whisker(estimate: Estimate, low: float, high: float) -> Whisker:
    """Place an estimate on an axis from `low` to `high`."""
    ends = (estimate.low, estimate.high) if estimate.has_interval else (estimate.value, estimate.value)
    value, first, last = (100 * (number - low) / (high - low) for number in (estimate.value, *ends))
    return Whisker(value, first, last)


def ticks(low: float, high: float, about: int) -> list[float]:
    """Round numbers (1, 2, 2.5 or 5 times a power of ten apart) within [low, high], at most `about` + 1 of them."""
    if not high > low:
        return [low]
    raw = (high - low) / about
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= raw * (1 - 1e-9))
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def padded(low: float, high: float) -> tuple[float, float]:
    """The range with a margin; a range of one value is widened so that it can be drawn."""
    room = (high - low) * MARGIN or max(abs(low) * 0.1, 0.5)
    return low - room, high + room


def compact(value: float) -> str:
    """A short label: 20k, 1.5M, 300."""
    for size, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{suffix}"
    return f"{value:g}"


def _series(name: str, band: Band, style: int, right: float, low: float, high: float) -> Series:
    line = _path(band.x, band.value, right, low, high)
    if not math.isfinite(band.low[0]):  # one seed
        return Series(name, style, line, "")
    upper = _path(band.x, band.high, right, low, high)
    lower = _path(band.x[::-1], band.low[::-1], right, low, high)
    return Series(name, style, line, f"{upper}L{lower[1:]}Z")


def _path(x: Sequence[float], y: Sequence[float], right: float, low: float, high: float) -> str:
    points = (f"{BOX * a / right:.1f},{BOX * (high - b) / (high - low):.1f}" for a, b in zip(x, y, strict=True))
    return "M" + "L".join(points)


def _hover(bands: Mapping[str, Band], styles: Mapping[str, int], right: float, low: float, high: float) -> str:
    series = [
        {
            "name": name,
            "style": styles[name],
            "x": _short(b.x),
            "y": _short(b.value),
            "low": _short(b.low),
            "high": _short(b.high),
        }
        for name, b in bands.items()
    ]
    return json.dumps({"right": right, "low": low, "high": high, "series": series}, separators=(",", ":"))


def _short(values: Sequence[float]) -> list[float]:
    """Few digits keep the page small; no interval is an empty list, as JSON has no nan."""
    return [float(f"{value:.{HOVER_DIGITS}g}") for value in values if math.isfinite(value)]
