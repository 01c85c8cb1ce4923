"""Pairwise objectives: hand-computed values, gradients, and the identities between them."""

from math import log

import pytest
import torch
from helpers import rows
from hypothesis import given
from strategies import batches, with_leaf
from torch import tensor
from torch.testing import assert_close

from unirl import make
from unirl.batch import MissingFieldError
from unirl.errors import UserError

CONFIGS = [
    ("dpo", {}),
    ("ipo", {}),
    ("cpl", {"reference": "ref"}),
    ("log_ratio_regression", {"step": 2.0, "tau": 0.1}),
]


def pair(**fields):
    """Rows with log-ratios to `ref` of 3 (two decisions and padding) and 1."""
    made = {
        "logp": [[1.0, 2.0, 9.0], [1.0, 1.0, 9.0]],
        "anchor_logp": {"ref": [[0.0, 0.0, 5.0], [0.0, 1.0, 5.0]], "prev": [[1.0, 0.0, 5.0], [0.0, 0.0, 5.0]]},
        "pairs": [[0, 1]],
        "mask": tensor([[True, True, False], [True, True, False]]),
    }
    return rows(**{**made, **fields})


def grad_of(name, batch, **hyper):
    batch, leaf = with_leaf(batch)
    (gradient,) = torch.autograd.grad(make("objective", name, **hyper)(batch).sum(), leaf)
    return gradient


def test_dpo_by_hand():
    # beta .5: logit .5 * (3 - 1) = 1: -log sigma(1) = .3132616875, gradient -.5 sigma(-1) = -.1344707107 on the first
    assert_close(make("objective", "dpo", beta=0.5)(pair()).item(), 0.3132616875, atol=1e-10, rtol=0)
    gradient = grad_of("dpo", pair(), beta=0.5)
    expected = tensor([[-0.1344707107, -0.1344707107, 0.0], [0.1344707107, 0.1344707107, 0.0]]).double()
    assert_close(gradient, expected, atol=1e-8, rtol=0)


def test_dpo_label_smoothing_mixes_the_two_labels():
    # .9 * .3132616875 + .1 * 1.3132616875 = .4132616875
    loss = make("objective", "dpo", beta=0.5, label_smoothing=0.1)(pair())
    assert_close(loss.item(), 0.4132616875, atol=1e-10, rtol=0)
    with pytest.raises(UserError, match="label_smoothing"):
        make("objective", "dpo", label_smoothing=0.5)


def test_ipo_by_hand():
    # 1 / (2 * .25) = 2: (3 - 1 - 2)^2 = 0; beta .5: (2 - 1)^2 = 1 with gradient 2 on the first row
    assert make("objective", "ipo", beta=0.25)(pair()).item() == 0.0
    assert make("objective", "ipo", beta=0.5)(pair()).item() == 1.0
    with pytest.raises(UserError, match="beta"):
        make("objective", "ipo", beta=0.0)
    assert grad_of("ipo", pair(), beta=0.5).tolist() == [[2.0, 2.0, 0.0], [-2.0, -2.0, 0.0]]


def test_cpl_discounts_by_the_number_of_decisions_before():
    # gamma .5, alpha 1, bias 1, first decision outside the mask: 1 * 4 + .5 * 2 = 5 against 0: -log sigma(5)
    batch = rows(
        logp=[[9.0, 4.0, 2.0], [9.0, 0.0, 0.0]],
        mask=tensor([[False, True, True], [False, True, True]]),
        pairs=[[0, 1]],
    )
    loss = make("objective", "cpl", alpha=1.0, bias=1.0, gamma=0.5)(batch)
    assert_close(loss.item(), 0.0067153485, atol=1e-10, rtol=0)
    gradient = grad_of("cpl", batch, alpha=1.0, bias=1.0, gamma=0.5)
    assert_close(gradient[0, 1] / gradient[0, 2], tensor(2.0).double())


@given(batches(min_rows=2, prefix=True))
def test_cpl_is_invariant_to_a_shift_of_log_probabilities_only_without_bias(batch):
    batch = batch.replace(mask=torch.ones_like(batch.mask))
    shifted = batch.replace(logp=batch.logp + 1.0)
    unbiased = make("objective", "cpl", bias=1.0)
    assert_close(unbiased(batch), unbiased(shifted))
    biased = make("objective", "cpl", bias=0.5)
    assert (biased(batch) - biased(shifted)).abs().max() > 1e-3


@given(batches(min_rows=2, whole=True))
def test_cpl_with_one_decision_and_a_reference_is_dpo_bitwise(batch):
    one = batch.decisions().replace(pairs=tensor([[0, 1], [1, 0]]), pair_label=tensor([0.3, 1.0]).double())
    cpl = make("objective", "cpl", alpha=0.2, bias=1.0, gamma=1.0, reference="ref")(one)
    assert torch.equal(cpl, make("objective", "dpo", beta=0.2)(one))


def test_cpl_refuses_a_bias_outside_its_range():
    with pytest.raises(UserError, match="bias"):
        make("objective", "cpl", bias=0.0)


def test_log_ratio_regression_by_hand():
    # step 2, tau .25, so half base and half reference. Rows: log pi 3 and 2; prev 1 and 0; ref 0 and 1.
    # [3 - 2] - [(.5 * 1 + .5 * 0) - (.5 * 0 + .5 * 1)] - 2 * 1/2 = 1 - 0 - 1 = 0; with label .25: 1 + 2 * .25 = 1.5
    part = make("objective", "log_ratio_regression", step=2.0, tau=0.25)
    assert part(pair()).item() == 0.0
    labelled = pair(pair_label=[0.25])
    assert part(labelled).item() == 2.25
    gradient = grad_of("log_ratio_regression", labelled, step=2.0, tau=0.25)
    assert gradient.tolist() == [[3.0, 3.0, 0.0], [-3.0, -3.0, 0.0]]


def test_log_ratio_regression_on_scores():
    # tau 0: [3 - 2] - [1 - 0] - 2 * (.75 - .5) = -.5
    part = make("objective", "log_ratio_regression", step=2.0, tau=0.0, payoff="score")
    assert part(pair(score=[0.75, 0.5])).item() == 0.25
    assert "score" in part.reads


def test_log_ratio_regression_reads_only_the_anchors_that_matter():
    def reads(**hyper):
        return set(make("objective", "log_ratio_regression", **hyper).reads)

    assert reads(step=2.0, tau=0.0) == {"logp", "pairs", "anchor_logp.prev"}
    assert reads(step=2.0, tau=0.5) == {"logp", "pairs", "anchor_logp.ref"}
    assert reads(step=2.0, tau=0.25) == {"logp", "pairs", "anchor_logp.prev", "anchor_logp.ref"}
    assert reads(step=3.0, tau=1 / 3) == {"logp", "pairs", "anchor_logp.ref"}
    without = pair(anchor_logp={"prev": [[1.0, 0.0, 5.0], [0.0, 0.0, 5.0]]})
    make("objective", "log_ratio_regression", step=2.0, tau=0.0)(without)
    with pytest.raises(MissingFieldError, match=r"log_ratio_regression.*anchor_logp\.ref"):
        make("objective", "log_ratio_regression", step=2.0, tau=0.25)(without)


def test_log_ratio_regression_refuses_impossible_steps():
    with pytest.raises(UserError, match="step"):
        make("objective", "log_ratio_regression", step=0.0, tau=0.1)
    with pytest.raises(UserError, match="payoff"):
        make("objective", "log_ratio_regression", step=1.0, tau=0.1, payoff="labels")


@given(batches(min_rows=2))
def test_log_ratio_regression_without_tau_is_ipo(batch):
    # certain labels: the same loss; soft labels: a constant apart, so the same gradient
    regression, ipo = {"step": 4.0, "tau": 0.0, "base": "ref"}, {"beta": 0.25}
    certain = batch.replace(pair_label=None)
    assert_close(
        make("objective", "log_ratio_regression", **regression)(certain), make("objective", "ipo", **ipo)(certain)
    )
    assert_close(grad_of("log_ratio_regression", batch, **regression), grad_of("ipo", batch, **ipo))


@pytest.mark.parametrize(("name", "hyper"), CONFIGS)
def test_swapping_a_pair_and_its_label_changes_nothing(name, hyper):
    part = make("objective", name, **hyper)
    there = part(pair(pairs=[[0, 1]], pair_label=[0.3]))
    back = part(pair(pairs=[[1, 0]], pair_label=[0.7]))
    assert_close(there, back)


@pytest.mark.parametrize(("name", "hyper"), CONFIGS)
def test_a_missing_label_means_that_the_first_is_preferred(name, hyper):
    part = make("objective", name, **hyper)
    assert_close(part(pair()), part(pair(pair_label=[1.0])))


@pytest.mark.parametrize(("name", "hyper"), CONFIGS[:3])
def test_a_soft_label_mixes_the_losses_of_both_labels(name, hyper):
    part = make("objective", name, **hyper)
    won, lost = part(pair(pair_label=[1.0])), part(pair(pair_label=[0.0]))
    assert_close(part(pair(pair_label=[0.3])), 0.3 * won + 0.7 * lost)


@pytest.mark.parametrize(("name", "hyper"), CONFIGS)
def test_anchors_and_padding_get_no_gradient(name, hyper):
    batch = pair()
    anchor = batch.anchor_logp["ref"].clone().requires_grad_()
    batch, logp = with_leaf(batch.replace(anchor_logp={"ref": anchor}))
    make("objective", name, **hyper)(batch).sum().backward()
    assert anchor.grad is None
    assert logp.grad[:, 2].eq(0).all() and logp.grad[:, 0].ne(0).all()


def test_dpo_is_stable_for_extreme_log_ratios():
    extreme = pair(logp=[[1e4, 1e4, 0.0], [-1e4, -1e4, 0.0]], pairs=[[0, 1], [1, 0]])
    loss = make("objective", "dpo")(extreme)
    assert loss.isfinite().all() and loss[0] == 0 and loss[1] > 1e3


def test_dpo_of_equal_rows_is_log_two():
    assert_close(make("objective", "dpo")(pair(pairs=[[0, 0]])).item(), log(2))
