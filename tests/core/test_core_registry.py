from dataclasses import dataclass

import pytest

from unirl import make, names, register
from unirl.errors import UserError


def test_make_builds_a_registered_part_with_its_hyper_parameters():
    assert make("objective", "ppo_clip", clip_high=0.28).clip_high == 0.28


def test_an_unknown_name_lists_near_matches():
    with pytest.raises(UserError, match=r"unknown objective 'ppo_clp' \(did you mean ppo_clip"):
        make("objective", "ppo_clp")


def test_an_unknown_hyper_parameter_lists_near_matches():
    with pytest.raises(UserError, match=r"hyper-parameter of objective 'ppo_clip' 'clip_hi' .*clip_high"):
        make("objective", "ppo_clip", clip_hi=0.2)


def test_an_unknown_kind_is_refused():
    with pytest.raises(UserError, match="unknown kind of part 'objectve'"):
        make("objectve", "ppo_clip")


def test_names_gives_one_line_per_part():
    listed = names("objective")
    assert {"ppo_clip", "policy_gradient", "dpo", "ipo", "mdpo", "value_gradient"} <= set(listed)
    assert all(line and "\n" not in line for line in listed.values())


def test_a_name_cannot_be_taken_twice():
    @register("test_kind", "thing")
    @dataclass(frozen=True)
    class Thing:
        """A thing."""

    with pytest.raises(ValueError, match="already"):

        @register("test_kind", "thing")
        @dataclass(frozen=True)
        class Other:
            """Another."""
