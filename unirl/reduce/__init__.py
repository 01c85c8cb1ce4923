"""Reductions: from a loss per decision, row or pair to the scalar that is minimised, with an explicit divisor.

`token_mean`, `sequence_mean`, `sequence_sum` and `constant` differ in what a long row weighs and in what they divide
by. `masked` holds the masked and grouped sums that other parts share.
"""

import unirl.reduce.reductions  # noqa: F401
