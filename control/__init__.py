"""The control domain: gymnasium and MuJoCo environments, MLP policies and critics."""

import unirl.control.data.experts  # noqa: F401  (registers the scripted experts)
from unirl.control.domain import ControlDomain

__all__ = ["ControlDomain"]
