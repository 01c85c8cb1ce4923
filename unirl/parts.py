"""Importing this module registers every part of the core."""

import unirl.advantages
import unirl.critics
import unirl.memory.fading
import unirl.objectives
import unirl.optim
import unirl.reduce
import unirl.regularizers
import unirl.rewards
import unirl.selection
import unirl.trainer.recorded_mix
import unirl.trainer.sources  # noqa: F401
