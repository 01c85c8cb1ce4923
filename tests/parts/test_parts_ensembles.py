"""Ensembles of critics: pessimism, random subsets, truncated quantiles, diverse gradients."""

import pytest
import torch
from helpers import rows
from hypothesis import given
from hypothesis import strategies as st
from strategies import batches, exact
from torch.testing import assert_close

from unirl import make
from unirl.critics.heads import joined, over_heads
from unirl.critics.quantiles import quantile_huber
from unirl.errors import UserError


def transition(**fields):
    """Reward 1; four target heads 8, 4, 6 and 2 at the next state."""
    made = {
        "reward": [[1.0]],
        "terminated": [[False]],
        "next_q": [[[8.0]], [[4.0]], [[6.0]], [[2.0]]],
        "next_logp": [[-2.0]],
        "q_data": [[[1.0]], [[2.0]], [[3.0]], [[4.0]]],
        "temperature": torch.tensor(0.5).double(),
    }
    return rows(**{**made, **fields})


# Pessimism over heads


def test_lower_takes_the_disagreement_of_heads_off_their_mean():
    # mean 5, population std sqrt((9 + 1 + 1 + 9) / 4) = sqrt 5
    values = transition().next_q
    assert_close(over_heads(values, {"lower": 2.0}).item(), 5 - 2 * 5**0.5)
    assert over_heads(values, {"lower": 0.0}).item() == 5.0


def test_a_mixture_has_the_variance_within_heads_and_between_them():
    # means 2 and 4 with spreads 1 and 3: variance (1 + 9) / 2 + 1 = 6
    batch = rows(q=[[[2.0]], [[4.0]]], q_std=[[[1.0]], [[3.0]]], mask=torch.ones(1, 1, dtype=torch.bool))
    assert_close(joined(batch, "q", {"lower": 1.0, "spread": "predicted"}).item(), 3 - 6**0.5)
    assert joined(batch, "q", {"lower": 1.0}).item() == 2.0  # 3 - 1: the disagreement alone


def test_pessimistic_actors_follow_heads_by_their_share_in_mean_and_spread():
    # of q = (1, 3): mean - beta std = 2 - beta, with gradient 1/2 +- beta/2 (std = |q1 - q0| / 2)
    q = exact([[[1.0]], [[3.0]]]).requires_grad_()
    loss = make("objective", "value_gradient", target={"lower": 0.5})(rows(q=q, mask=torch.ones(1, 1, dtype=bool)))
    loss.sum().backward()
    assert loss.item() == -1.5
    assert_close(q.grad.flatten(), exact([-0.75, -0.25]))


@given(batches())
def test_without_pessimism_lower_is_the_mean(batch):
    neutral = make("objective", "value_gradient", target={"lower": 0.0})
    assert_close(neutral(batch), make("objective", "value_gradient", target="mean")(batch))
    assert_close(
        make("critic", "q", target={"lower": 0.0}).target(batch), make("critic", "q", target="mean").target(batch)
    )


@given(batches())
def test_one_standard_deviation_below_the_mean_of_two_heads_is_the_smaller(batch):
    lower = make("objective", "value_gradient", target={"lower": 1.0})
    assert_close(lower(batch), make("objective", "value_gradient", target="min")(batch))


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("median", "unknown target .*median"),
        ({"lowr": 1.0}, "did you mean lower"),
        ({"lower": "much"}, "gives no number for `lower`"),
        ({"lower": 1.0, "spread": "guessed"}, "unknown spread .*guessed"),
    ],
)
def test_a_wrong_way_to_join_heads_is_refused(target, message):
    with pytest.raises(UserError, match=message):
        make("objective", "value_gradient", target=target)


def test_critics_without_a_spread_cannot_be_joined_by_it():
    with pytest.raises(UserError, match=r"unknown spread .*predicted"):
        make("critic", "soft_q", target={"lower": 1.0, "spread": "predicted"})


# Random subsets (REDQ)


def test_targets_take_the_minimum_over_two_random_heads():
    # heads 8, 4, 6, 2: the minimum is 2 in half of the pairs, 4 in a third, 6 in a sixth; y = 1 + .5 (min + 1)
    critic = make("critic", "subset_q", heads=4, subset=2, gamma=0.5)
    drawn = torch.tensor([critic.target(transition()).item() for _ in range(1000)])
    for y, share in ((2.5, 1 / 2), (3.5, 1 / 3), (4.5, 1 / 6)):
        assert abs((drawn == y).double().mean().item() - share) < 0.07


@given(batches())
def test_the_subset_of_all_heads_is_soft_q(batch):
    whole = make("critic", "subset_q", heads=2, subset=2)
    assert_close(whole.loss(batch), make("critic", "soft_q").loss(batch))


def test_a_restored_subset_critic_draws_the_same_subsets():
    first, second = (make("critic", "subset_q", heads=4, subset=1, seed=seed) for seed in (0, 1))
    first.target(transition())
    second.load_state_dict(first.state_dict())
    assert [first.target(transition()) for _ in range(20)] == [second.target(transition()) for _ in range(20)]


def test_a_subset_larger_than_the_ensemble_is_refused():
    with pytest.raises(UserError, match="a subset of 3 out of 2 heads"):
        make("critic", "subset_q", heads=2, subset=3)


# Truncated quantiles (TQC)


def test_the_largest_atoms_of_all_heads_together_are_dropped():
    # two heads of two atoms, one dropped for each: of 8, 4, 6, 2 stay 2 and 4; y = 1 + .5 (z + 1)
    critic = make("critic", "quantile_q", heads=2, atoms=2, dropped=1, gamma=0.5)
    assert critic.target(transition()).flatten().tolist() == [2.5, 3.5]
    ended = transition(terminated=[[True]])
    assert critic.target(ended).flatten().tolist() == [1.0, 1.0]


def test_quantile_regression_by_hand():
    # one head of atoms 0 and 1 for tau = 1/4 and 3/4, one target .5 (kappa 1): u = .5 and -.5, H = .125
    # (1/4 * .125 + |3/4 - 1| * .125) / 2 = .03125; slopes -1/4 * .5 / 2 and +1/4 * .5 / 2
    batch = transition(q_data=[[[0.0]], [[1.0]]], next_q=[[[0.5]], [[9.0]]], next_logp=[[0.0]], reward=[[0.0]])
    critic = make("critic", "quantile_q", heads=1, atoms=2, dropped=1, gamma=1.0)
    atoms = batch.q_data.clone().requires_grad_()
    loss = critic.loss(batch.replace(q_data=atoms))
    loss.sum().backward()
    assert_close(loss.item(), 0.03125)
    assert_close(atoms.grad.flatten(), exact([-0.0625, 0.0625]))


@given(st.integers(0, 2**31), st.sampled_from([0.3, 1.0, 4.0]))
def test_sorted_quantile_regression_is_that_of_all_pairs(seed, kappa):
    generator = torch.Generator().manual_seed(seed)
    atoms = (3 * torch.randn(6, 2, 3, generator=generator, dtype=torch.float64)).requires_grad_()
    targets = (3 * torch.randn(5, 2, 3, generator=generator, dtype=torch.float64)).sort(0).values
    below = torch.rand(6, generator=generator, dtype=torch.float64)
    error = targets[None] - atoms[:, None]
    huber = torch.nn.functional.huber_loss(
        atoms[:, None].expand_as(error), targets[None].expand_as(error), reduction="none", delta=kappa
    )
    weight = (below[:, None, None, None] - (error.detach() < 0).double()).abs()
    pairs = (weight * huber / kappa).mean(1)
    fast = quantile_huber(atoms, targets, below, kappa)
    assert_close(fast, pairs)
    assert_close(*(torch.autograd.grad(loss.sum(), atoms)[0] for loss in (fast, pairs)))


def test_too_many_dropped_atoms_are_refused():
    with pytest.raises(UserError, match="25 of 25 atoms are dropped"):
        make("critic", "quantile_q", dropped=25)


# Diverse gradients (EDAC)


def slopes(*vectors: list[float]):
    """One decision's gradients dQ_k / da."""
    return rows(model={"q_action_gradient": [[list(vectors)]]}, mask=torch.ones(1, 1, dtype=torch.bool))


def test_similarity_is_the_sum_of_cosines_over_ordered_pairs():
    # directions (1, 0), (0, 2) and (3, 3): cosines 0, 1/sqrt 2 and 1/sqrt 2, each counted twice, over K - 1 = 2
    batch = slopes([1.0, 0.0], [0.0, 2.0], [3.0, 3.0])
    assert_close(make("critic", "diversity").loss(batch).item(), 2**0.5)


def test_similarity_lies_between_opposite_and_equal_slopes():
    # K equal directions: K (K - 1) / (K - 1) = K; two opposite ones: 2 * -1
    assert_close(make("critic", "diversity").loss(slopes([1.0, 2.0], [2.0, 4.0], [0.5, 1.0])).item(), 3.0)
    assert_close(make("critic", "diversity").loss(slopes([1.0, 2.0], [-1.0, -2.0])).item(), -2.0)


def test_the_length_of_a_slope_has_no_gradient_and_its_direction_turns_away():
    gradient = exact([[[[1.0, 0.0], [1.0, 1.0]]]]).requires_grad_()
    batch = rows(model={"q_action_gradient": gradient}, mask=torch.ones(1, 1, dtype=torch.bool))
    make("critic", "diversity").loss(batch).sum().backward()
    along = (gradient.grad * gradient).sum(-1)
    assert_close(along, torch.zeros_like(along))
    # cos = u1 / |u| at u = (1, 1): 2 d cos / du = 2 (1 - 1/2, -1/2) / sqrt 2; descent turns away from the first slope
    assert_close(gradient.grad[0, 0, 1], exact([0.5**0.5, -(0.5**0.5)]))


def test_a_critic_without_any_slope_counts_for_nothing():
    batch = slopes([0.0, 0.0], [1.0, 0.0])
    assert make("critic", "diversity").loss(batch).item() == 0.0
