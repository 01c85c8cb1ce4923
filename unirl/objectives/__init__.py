"""Objectives: what the policy is changed towards, as a loss per decision [N, T], per row [N] or per pair [P].

`level` says which. Nothing is reduced here; penalties (KL, entropy, behaviour cloning) are regularizers.
Advantages, old and anchor log-probabilities are constants: gradients flow through `logp`, or through `q` for value
gradients.
"""

import unirl.objectives.clipped
import unirl.objectives.experts
import unirl.objectives.improved
import unirl.objectives.likelihood
import unirl.objectives.log_ratio
import unirl.objectives.none
import unirl.objectives.policy_gradient
import unirl.objectives.preference
import unirl.objectives.temporal
import unirl.objectives.value_gradient  # noqa: F401
