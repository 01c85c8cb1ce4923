"""The control domain: gymnasium and MuJoCo environments, MLP policies and critics."""

import unirl.control.data.experts  # (registers the scripted experts)
import unirl.control.goal_replay  # (registers the source)
import unirl.control.logged_world
import unirl.control.mazes  # (registers the maze and its expert)
import unirl.control.point_mass
import unirl.control.tabular  # noqa: F401  (both register their environments)
from unirl.control.domain import ControlDomain

__all__ = ["ControlDomain"]
