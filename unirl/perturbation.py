"""Perturbations of a world as numbers by name: what one world differs in, and grids of worlds."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from unirl.errors import UserError

POINTS = 5  # of a range that is given by its bounds
MOST_SWEPT = 2  # a line, or one line for each value of the second


def flattened(perturb: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested names as dotted ones: `{mass: {torso: 1.5}}` and `{mass.torso: 1.5}` are the same."""
    flat: dict[str, Any] = {}
    for name, value in perturb.items():
        flat |= flattened(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {f"{prefix}{name}": value}
    return flat


@dataclass(frozen=True)
class Grid:
    """Values of the perturbations that vary, and of those that do not, by dotted name."""

    swept: Mapping[str, tuple[float, ...]]
    fixed: Mapping[str, float]

    @classmethod
    def of(cls, perturb: Mapping[str, Any]) -> "Grid":
        """From `{gravity: [0.5, 2], mass: {torso: 1.5}}`.

        Two numbers are bounds, between which five values are tried, in equal ratios where both are positive and in
        equal steps otherwise; three or more are the values themselves; one number stays as it is. Raises `UserError`
        for anything else, and for none or more than two that vary.
        """
        values = flattened(perturb)
        swept = {name: _values(name, value) for name, value in values.items() if isinstance(value, list | tuple)}
        fixed = {name: _number(name, value) for name, value in values.items() if name not in swept}
        if not 1 <= len(swept) <= MOST_SWEPT:
            raise UserError(
                f"perturb varies {', '.join(swept) or 'nothing'}; give bounds or values of one or two quantities, for "
                "example 'perturb={gravity:[0.5,2]}'"
            )
        return cls(swept, fixed)

    def points(self) -> list[dict[str, float]]:
        """Every combination, the last quantity varying fastest."""
        names = list(self.swept)
        return [
            {**self.fixed, **dict(zip(names, chosen, strict=True))}
            for chosen in itertools.product(*self.swept.values())
        ]


def _values(name: str, given: Sequence[Any]) -> tuple[float, ...]:
    numbers = tuple(_number(name, value) for value in given)
    if len(numbers) < 2:
        raise UserError(f"perturb: {name} is {list(given)}; give [low, high], or three values and more")
    if len(numbers) > 2:
        return numbers
    low, high = numbers
    if not low < high:
        raise UserError(f"perturb: {name} is {list(given)}; the lower bound comes first")
    spaced = np.geomspace(low, high, POINTS) if low > 0 else np.linspace(low, high, POINTS)
    return tuple(float(f"{value:.6g}") for value in spaced)


def _number(name: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise UserError(f"perturb: {name} holds {value!r}, which is no number")
    return float(value)
