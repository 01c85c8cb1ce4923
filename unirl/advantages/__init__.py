"""Advantages: how much better a decision was than expected. Each part takes a batch and gives it `advantage` [N, T].

Advantages are constants for the update: they carry no gradient. They are 0 outside the mask.
"""

import unirl.advantages.cost
import unirl.advantages.dice
import unirl.advantages.group
import unirl.advantages.normalize
import unirl.advantages.returns
import unirl.advantages.temporal
import unirl.advantages.turns
import unirl.advantages.values  # noqa: F401
