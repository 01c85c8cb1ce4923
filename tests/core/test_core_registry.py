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
    with pytest.raises(UserError, match="source 'online': rows is 'abc'; it must be a whole number"):
        make("source", "online", rows="abc")


@pytest.mark.parametrize(
    ("kind", "name", "given", "message"),
    [
        ("critic", "soft_q", {"heads": 0}, "critic 'soft_q': heads is 0; it must be at least 1"),
        ("critic", "q", {"heads": 1.5}, "critic 'q': heads is 1.5; it must be a whole number"),
        ("critic", "subset_q", {"tau": 0}, "critic 'subset_q': tau is 0; it must be above 0 and at most 1"),
        ("critic", "dice", {"tau": 1.5}, "critic 'dice': tau is 1.5; it must be above 0 and at most 1"),
        ("critic", "quantile_q", {"gamma": -0.1}, "critic 'quantile_q': gamma is -0.1; it must be 0 to 1"),
        ("critic", "q", {"gamma": float("nan")}, "critic 'q': gamma is nan; it must be 0 to 1"),
        ("critic", "recoil_q", {"gamma": 1.0}, "critic 'recoil_q': gamma is 1, .* give q_min"),
        ("critic", "q", {"smoothing": 5}, "critic 'q': smoothing is 5; it must be names and values or null"),
        ("advantage", "gae", {"lam": 2}, "advantage 'gae': lam is 2; it must be 0 to 1"),
        ("objective", "ppo_clip", {"clip_low": -0.2}, "objective 'ppo_clip': clip_low is -0.2; it must be 0 or more"),
    ],
)
def test_numbers_that_make_no_sense_are_refused(kind, name, given, message):
    with pytest.raises(UserError, match=message):
        make(kind, name, **given)


def test_a_whole_number_may_be_written_as_a_float():
    heads = make("critic", "q", heads=3.0).heads
    assert (heads, type(heads)) == (3, int)


def test_a_target_copy_may_be_left_out_where_the_critic_allows_it():
    make("critic", "dice", side="state", tau=None)


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
