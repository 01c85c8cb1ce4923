"""Sections of a control task: what is no mapping, and values of a wrong type."""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pytest
from control_worlds import CLOCK, SMALL

from unirl import cli, make
from unirl.control import ControlDomain
from unirl.control.data.goals import GoalColumns
from unirl.control.envs import make_env
from unirl.control.sections import EXAMPLES, checked
from unirl.errors import UserError


@dataclass(frozen=True)
class Options:
    """One option of each type."""

    count: int = 1
    limit: int | None = None
    scale: float = 1.0
    on: bool = False
    how: str | None = None
    more: Mapping[str, Any] | None = None


@pytest.mark.parametrize("key", EXAMPLES)
@pytest.mark.parametrize("value", ["abc", 0, [1], False])
def test_a_section_that_is_no_mapping_is_said_before_training(key, value):
    with pytest.raises(UserError) as caught:
        ControlDomain({**CLOCK, key: value}, SMALL)
    words = f"task.{key} is {value!r}; it must be names and values, for example 'task.{key}={EXAMPLES[key]}'"
    assert str(caught.value) == words


@pytest.mark.parametrize("key", ["env_kwargs", "perturb"])
def test_so_is_one_of_the_simulator(key):
    with pytest.raises(UserError, match=f"task.simulator.{key} is 'abc'; it must be names and values"):
        ControlDomain({**CLOCK, "simulator": {key: "abc"}}, SMALL)


def test_the_command_line_prints_one_line(tmp_path, capsys):
    words = ["train", "method=ppo", "task=hopper", "task.perturb=gravity", f"out={tmp_path / 'run'}"]
    assert cli.main(words) == 2
    shown = capsys.readouterr().err
    assert "task.perturb is 'gravity'" in shown and shown.count("\n") == 1


@pytest.mark.parametrize(
    "given", [{"random": 0}, {"random": 1, "expert": 1.0}, {"random": 0, "expert": "high"}, {"random": 0, "exprt": 1}]
)
def test_reference_scores_are_two_different_numbers(given):
    with pytest.raises(UserError, match=r"task.reference_score is .*; it must be two different numbers, for example"):
        ControlDomain({**CLOCK, "reference_score": given}, SMALL)


def test_the_scale_of_a_task_is_its_own_reference_score():
    domain = ControlDomain({**CLOCK, "reference_score": {"random": 1, "expert": 3.0}}, SMALL)
    result = domain.evaluate(1)
    assert result["normalized_score"] == pytest.approx(100 * (result["score"] - 1) / 2)


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"count": "big"}, "place.count is 'big'; it must be a whole number"),
        ({"count": 2.5}, "place.count is 2.5; it must be a whole number"),
        ({"count": True}, "place.count is True; it must be a whole number"),
        ({"count": None}, "place.count is None; it must be a whole number"),
        ({"limit": "big"}, "place.limit is 'big'; it must be a whole number or null"),
        ({"scale": "big"}, "place.scale is 'big'; it must be a number"),
        ({"scale": False}, "place.scale is False; it must be a number"),
        ({"on": "maybe"}, "place.on is 'maybe'; it must be true or false"),
        ({"on": 1}, "place.on is 1; it must be true or false"),
        ({"how": 3}, "place.how is 3; it must be a name or null"),
        ({"more": "abc"}, "place.more is 'abc'; it must be names and values or null"),
        ({"cuont": 3}, "unknown key of place 'cuont' (did you mean count or on?)"),
    ],
)
def test_an_option_of_another_type_is_named(given, words):
    with pytest.raises(UserError) as caught:
        checked(Options, given, "place")
    assert str(caught.value) == words


def test_options_of_the_declared_types_are_taken():
    given = {"count": 2e9, "limit": None, "scale": 2, "on": True, "how": "well", "more": {"a": 1}}
    made = checked(Options, given, "place")
    assert made == Options(2_000_000_000, None, 2, True, "well", {"a": 1}) and isinstance(made.count, int)


def test_so_is_how_a_method_wants_its_data():
    with pytest.raises(UserError, match=r"source 'offline': data is 'abc'; it must be names and values or null"):
        make("source", "offline", data="abc")


@pytest.mark.parametrize(
    "given", ["abc", {"achieved": "ab", "desired": [1]}, {"achieved": [0], "desired": [-1]}, {"achieved": [0]}]
)
def test_goal_columns_are_two_lists_of_columns(given):
    with closing(make_env(CLOCK)) as environment, pytest.raises(UserError, match=r"goal_columns reads \{achieved: "):
        GoalColumns.of(given, environment)
