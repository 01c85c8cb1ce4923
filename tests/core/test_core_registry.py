from dataclasses import dataclass

import pytest

from unirl import make, names, register, registry
from unirl.errors import UserError


@pytest.fixture
def own_kind():
    """Parts registered under `test_kind` are forgotten after the test."""
    yield
    registry._PARTS.pop("test_kind", None)


def test_make_builds_a_registered_part_with_its_hyper_parameters():
    assert make("objective", "ppo_clip", clip_high=0.28).clip_high == 0.28


def test_an_unknown_name_lists_near_matches():
    with pytest.raises(UserError, match=r"unknown objective 'ppo_clp' \(did you mean ppo_clip"):
        make("objective", "ppo_clp")


def test_an_unknown_hyper_parameter_lists_near_matches():
    with pytest.raises(UserError, match=r"hyper-parameter of objective 'ppo_clip' 'clip_hi' .*clip_high"):
        make("objective", "ppo_clip", clip_hi=0.2)


def test_a_word_in_place_of_a_number_is_refused():
    with pytest.raises(UserError, match="source 'online': rows is 'abc'; it must be a number"):
        make("source", "online", rows="abc")


def test_an_unknown_kind_is_refused():
    with pytest.raises(UserError, match="unknown kind of part 'objectve'"):
        make("objectve", "ppo_clip")


def test_names_gives_one_line_per_part():
    listed = names("objective")
    assert {"ppo_clip", "policy_gradient", "dpo", "ipo", "mdpo", "value_gradient"} <= set(listed)
    assert all(line and "\n" not in line for line in listed.values())


@pytest.mark.usefixtures("own_kind")
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


@pytest.mark.usefixtures("own_kind")
def test_registering_keeps_a_methods_own_decorators():
    import torch

    @register("test_kind", "frozen")
    @dataclass(frozen=True)
    class Frozen:
        """Gives no gradients."""

        @torch.no_grad()
        def __call__(self, x):
            return 2 * x

    assert not make("test_kind", "frozen")(torch.ones(1, requires_grad=True)).requires_grad


def test_an_inherited_method_names_the_part_that_inherits_it():
    from helpers import rows

    from unirl.batch import MissingFieldError

    with pytest.raises(MissingFieldError, match="critic 'soft_q' needs"):
        make("critic", "soft_q").loss(rows(reward=[[1.0]]))
