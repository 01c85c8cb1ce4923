"""Selection: which decisions, rows or pairs are trained on. A part fills `weight` [N, T] or `pairs`.

Weights multiply what is already there. They do not enter the divisor of the reduction, so dropping rows does not
enlarge the others.
"""

import unirl.selection.best
import unirl.selection.engine
import unirl.selection.pairs
import unirl.selection.rows  # noqa: F401
