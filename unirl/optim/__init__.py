"""What happens around an optimizer step, given a closure of named losses."""

import unirl.optim.trust_region  # noqa: F401
from unirl.optim.gradients import Closure
from unirl.optim.step import Update, make_update

__all__ = ["Closure", "Update", "make_update"]
