"""Regularizers: penalties per decision [N, T] added to the objective, and the coefficients they are added with.

A penalty is smaller where the policy is closer to what the regularizer wants; its strength is a part of its own, of
kind `coefficient`.
"""

import unirl.regularizers.advantage_guided
import unirl.regularizers.behavior
import unirl.regularizers.coefficients
import unirl.regularizers.cost_limit
import unirl.regularizers.entropy
import unirl.regularizers.kl
import unirl.regularizers.router
import unirl.regularizers.swaddling
import unirl.regularizers.tsallis  # noqa: F401
