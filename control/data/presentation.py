"""Which dataset shows recorded transitions as a method wants to see them."""

from collections.abc import Callable
from functools import partial
from typing import Any

from unirl.control.data.dataset import DataOptions, TransitionDataset
from unirl.control.data.goals import GoalColumns, GoalDataset
from unirl.control.data.sequences import GoalSequenceDataset, ReturnDataset, SequenceDataset
from unirl.control.data.transitions import Transitions
from unirl.errors import UserError


def presentation(
    data: Transitions, options: DataOptions, environment: Any
) -> tuple[Transitions, Callable[..., TransitionDataset]]:
    """The data with the columns that the environment shows, and what makes the dataset of it.

    Raises `UserError` where goals are asked for and there are no columns for them, and for what cannot be combined.
    """
    horizon, pieces = environment.spec.max_episode_steps, options.context is not None
    if options.ask is not None:
        if pieces and (options.relabel or {}).get("augment"):
            raise UserError("relabel.augment splices the returns of single decisions, not of a policy that looks back")
        if (options.relabel or {}).get("draw", "decision") != "decision":
            raise UserError("relabel.draw=pair draws goals; rows with a return to ask for are drawn one by one")
        return data, partial(SequenceDataset if pieces else ReturnDataset, horizon=horizon)
    if options.relabel is not None:
        columns = GoalColumns.of(options.goal_columns, environment)
        data = columns.asked_in(data, environment.observation_space.shape[0])
        if pieces:
            return data, partial(GoalSequenceDataset, columns=columns, horizon=horizon)
        return data, partial(GoalDataset, columns=columns)
    return data, partial(SequenceDataset, horizon=horizon) if pieces else TransitionDataset
