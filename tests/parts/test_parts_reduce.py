"""Reductions: what is summed, what it is divided by, and that micro-batches add up."""

import pytest
import torch
from helpers import rows
from hypothesis import given
from hypothesis import strategies as st
from strategies import batches, with_leaf
from torch import tensor
from torch.testing import assert_close

from unirl import Batch, make
from unirl.errors import UserError
from unirl.reduce.masked import Groups, last_decision, row_means

REDUCTIONS = [("token_mean", {}), ("sequence_mean", {}), ("sequence_sum", {}), ("constant", {"length": 10.0})]
LOSS = tensor([[1.0, 2.0, 99.0], [6.0, 99.0, 99.0]]).double()
MASK = tensor([[True, True, False], [True, False, False]])


def test_reductions_by_hand():
    # row sums 3 and 6, three decisions: 9/3, (3/2 + 6)/2, 9/2, 9/(2 * 10)
    batch = Batch(mask=MASK)
    values = [make("reduce", name, **hyper)(LOSS, batch).item() for name, hyper in REDUCTIONS]
    assert_close(values, [3.0, 3.75, 4.5, 0.45])


def test_weights_do_not_enter_the_divisor():
    # the second row is dropped: 3/3, (3/2)/2, 3/2, 3/20
    batch = Batch(mask=MASK, weight=tensor([[1.0] * 3, [0.0] * 3]).double())
    values = [make("reduce", name, **hyper)(LOSS, batch).item() for name, hyper in REDUCTIONS]
    assert_close(values, [1.0, 0.75, 1.5, 0.15])


def test_the_divisor_of_the_batch_wins():
    batch = Batch(mask=MASK, divisor=tensor(9.0))
    assert make("reduce", "token_mean")(LOSS, batch).item() == 1.0


def test_divisors_count_decisions_or_rows():
    batch = Batch(mask=MASK)
    assert [float(make("reduce", name, **hyper).divisor(batch)) for name, hyper in REDUCTIONS] == [3.0, 2.0, 2.0, 20.0]


def test_row_and_pair_losses_are_averaged_over_the_whole_minibatch():
    batch = Batch(mask=MASK)
    assert make("reduce", "token_mean")(tensor([1.0, 2.0, 6.0]), batch).item() == 3.0
    part = batch.replace(unit_divisor=tensor(6.0))
    assert make("reduce", "token_mean")(tensor([1.0, 2.0, 6.0]), part).item() == 1.5


def test_what_lies_outside_the_mask_does_not_matter():
    for name, hyper in REDUCTIONS:
        loss = torch.where(MASK, LOSS, float("nan")).requires_grad_()
        value = make("reduce", name, **hyper)(loss, Batch(mask=MASK))
        value.backward()
        assert value.isfinite() and loss.grad[~MASK].eq(0).all()


def test_an_empty_batch_of_decisions_costs_nothing():
    empty = Batch(mask=torch.zeros(2, 3, dtype=torch.bool))
    assert [make("reduce", name, **hyper)(LOSS, empty).item() for name, hyper in REDUCTIONS] == [0.0] * 4


def test_half_precision_losses_are_summed_in_single_precision():
    loss = torch.ones(1, 4096, dtype=torch.bfloat16)
    batch = Batch(mask=torch.ones(1, 4096, dtype=torch.bool))
    assert make("reduce", "sequence_sum")(loss, batch).item() == 4096.0


@pytest.mark.parametrize(("name", "hyper"), REDUCTIONS)
@given(batch=batches(min_rows=2), cut=st.integers(1, 3))
def test_micro_batches_add_up_to_the_minibatch_with_its_gradient(name, hyper, batch, cut):
    reduce, objective = make("reduce", name, **hyper), make("objective", "ppo_clip")
    batch, leaf = with_leaf(batch)
    whole = reduce(objective(batch), batch)
    shared = batch.replace(divisor=reduce.divisor(batch))
    pieces = [shared[:cut], shared[cut:]]
    total = sum(reduce(objective(piece), piece) for piece in pieces if len(piece))
    assert_close(total, whole)
    assert_close(torch.autograd.grad(total, leaf)[0], torch.autograd.grad(whole, leaf)[0])


@given(batches(whole=True))
def test_all_means_agree_when_rows_are_equally_long(batch):
    columns = batch.mask.shape[1]
    values = {name: make("reduce", name)(batch.logp, batch) for name in ("token_mean", "sequence_mean", "sequence_sum")}
    constant = make("reduce", "constant", length=columns)(batch.logp, batch)
    assert_close(values["token_mean"], values["sequence_mean"])
    assert_close(values["token_mean"], values["sequence_sum"] / columns)
    assert_close(values["token_mean"], constant)


def test_constant_needs_a_positive_length():
    with pytest.raises(UserError, match="length"):
        make("reduce", "constant", length=0)


def test_masked_helpers():
    assert row_means(LOSS, MASK).tolist() == [1.5, 6.0]
    assert last_decision(tensor([[True, False, True, False], [False] * 4])).tolist() == [
        [False, False, True, False],
        [False] * 4,
    ]
    groups = Groups(tensor([9, 4, 9]))
    values = tensor([1.0, 2.0, 5.0])
    assert groups.size.tolist() == [2, 1, 2]
    assert groups.sum(values).tolist() == [6.0, 2.0, 6.0]
    assert groups.max(values).tolist() == [5.0, 2.0, 5.0] and groups.min(values).tolist() == [1.0, 2.0, 1.0]


def test_rows_helper_defaults_to_a_full_mask():
    assert rows(logp=[[0.0, 1.0]]).mask.all()
