"""Importance correction of what another programme sampled, and how far it is off: by hand, and identities."""

from math import log

import pytest
import torch
from helpers import rows
from hypothesis import given
from hypothesis import strategies as st
from strategies import batches, exact, with_leaf
from torch.testing import assert_close

from unirl import make
from unirl.errors import UserError
from unirl.selection.engine import LEVELS, MODES
from unirl.trainer.diagnostics import engine_log_ratios, engine_mismatch

# ratios pi / mu of the rows: 3, .5, 1 (product 1.5, geometric mean 1.5^(1/3) = 1.1447) and .25, 4 (product 1)
MISMATCHED = rows(
    old_logp=[[log(3.0), log(0.5), 0.0], [log(0.25), log(4.0), 7.0]],
    behavior_logp=[[0.0, 0.0, 0.0], [0.0, 0.0, -5.0]],
    mask=[[True, True, True], [True, True, False]],
)
MEAN = 1.5 ** (1 / 3)
CASES = [
    ({}, [[2.0, 0.5, 1.0], [0.25, 2.0, 1.0]]),
    ({"low": 0.5, "high": 5.0, "mode": "mask"}, [[3.0, 0.5, 1.0], [0.0, 4.0, 1.0]]),
    ({"low": 0.4, "high": 3.5}, [[3.0, 0.5, 1.0], [0.4, 3.5, 1.0]]),
    ({"level": "sequence"}, [[1.5, 1.5, 1.5], [1.0, 1.0, 1.0]]),
    ({"level": "sequence", "high": 1.2}, [[1.2, 1.2, 1.2], [1.0, 1.0, 1.0]]),
    ({"level": "sequence", "mode": "mask", "high": 1.2}, [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]),
    ({"level": "geometric", "mode": "mask", "high": 1.2}, [[MEAN, MEAN, MEAN], [1.0, 1.0, 1.0]]),
    ({"level": "geometric", "mode": "mask", "high": 1.1}, [[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]),
]


def correct(batch, **options):
    return make("selection", "engine_correction", **options)(batch)


@pytest.mark.parametrize(("options", "weight"), CASES)
def test_corrections_by_hand(options, weight):
    weighted = MISMATCHED.replace(weight=exact([[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]]))
    assert_close(correct(weighted, **options).weight, exact(weight))
    halved = MISMATCHED.replace(weight=exact([[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]]))
    assert_close(correct(halved, **options).weight, exact(weight) / 2)


@given(batches(), st.sampled_from(LEVELS), st.sampled_from(MODES), st.floats(0, 1), st.floats(1, 100))
def test_equal_policies_leave_the_weights_exactly_as_they_are(batch, level, mode, low, high):
    same = batch.replace(behavior_logp=batch.old_logp)
    assert torch.equal(correct(same, level=level, mode=mode, low=low, high=high).weight, batch.weight)


@given(batches())
def test_the_product_of_token_ratios_is_the_sequence_ratio(batch):
    batch = batch.replace(weight=torch.ones_like(batch.weight))
    unlimited = {"low": 0.0, "high": float("inf")}
    tokens, whole = (correct(batch, level=level, **unlimited).weight for level in ("token", "sequence"))
    product = torch.where(batch.mask, tokens, 1.0).prod(1, keepdim=True)
    assert_close(whole, torch.where(batch.mask, product, 1.0))
    mean = product ** (1 / batch.mask.sum(1, keepdim=True).clamp(min=1))
    assert_close(correct(batch, level="geometric", **unlimited).weight, torch.where(batch.mask, mean, 1.0))


@given(batches(), st.sampled_from(LEVELS))
def test_a_mask_keeps_exactly_what_truncation_does_not_change(batch, level):
    options = {"level": level, "low": 0.5, "high": 2.0}
    free = correct(batch, level=level, high=float("inf")).weight
    truncated, masked = correct(batch, **options).weight, correct(batch, mode="mask", **options).weight
    assert torch.equal(masked, torch.where(truncated == free, free, 0.0))


def test_ratios_beyond_floating_point_are_cut_or_dropped_and_never_infinite():
    far = rows(old_logp=[[900.0, -900.0]], behavior_logp=[[-900.0, 900.0]], mask=[[True, True]])
    assert correct(far).weight.tolist() == [[2.0, 0.0]]
    assert correct(far, mode="mask").weight.tolist() == [[0.0, 0.0]]


def test_the_correction_is_a_constant_of_the_loss():
    # -w A with w = min(ratio, 2) and the ratio pi / pi_old = 1: gradient of row one -2, -.5, -1 over 5 decisions
    batch, leaf = with_leaf(correct(MISMATCHED).replace(logp=MISMATCHED.old_logp, advantage=torch.ones(2, 3).double()))
    make("reduce", "token_mean")(make("objective", "ppo_clip")(batch), batch).backward()
    assert_close(leaf.grad, -exact([[2.0, 0.5, 1.0], [0.25, 2.0, 0.0]]) / 5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"level": "row"}, "unknown level of selection 'engine_correction'"),
        ({"mode": "clip"}, "unknown mode of selection 'engine_correction'"),
        ({"low": 1.5}, "0 <= low <= 1 <= high"),
        ({"high": 0.5}, "0 <= low <= 1 <= high"),
    ],
)
def test_wrong_options_are_one_line(options, message):
    with pytest.raises(UserError, match=message):
        make("selection", "engine_correction", **options)


def test_mismatch_by_hand():
    # log r: log 3, log .5, 0, log .25, log 4; k3 = mean(r - 1) - mean(log r) = (2 - .5 + 0 - .75 + 3 - log 1.5) / 5
    found = engine_mismatch(engine_log_ratios(MISMATCHED, MISMATCHED.old_logp))
    assert_close(found["policy/engine_kl"], torch.tensor((3.75 - log(1.5)) / 5, dtype=torch.float64))
    assert_close(found["policy/engine_max_ratio"], torch.tensor(4.0, dtype=torch.float64))


def test_mismatch_of_equal_policies_is_exactly_nothing_and_unknown_without_a_sampler():
    same = MISMATCHED.replace(behavior_logp=MISMATCHED.old_logp)
    found = engine_mismatch(engine_log_ratios(same, same.old_logp))
    assert (float(found["policy/engine_kl"]), float(found["policy/engine_max_ratio"])) == (0.0, 1.0)
    assert engine_mismatch(engine_log_ratios(rows(old_logp=[[1.0]]), torch.ones(1, 1))) == {}


def test_another_samplers_rows_are_no_mismatch():
    batch = MISMATCHED.replace(source=torch.tensor([0, 1]))  # the second row is an opponent's
    assert float(engine_mismatch(engine_log_ratios(batch, batch.old_logp))["policy/engine_max_ratio"]) == pytest.approx(
        3
    )


@given(batches(whole=True))
def test_the_estimated_divergence_is_never_negative(batch):
    batch = batch.replace(source=torch.zeros_like(batch.source))
    assert engine_mismatch(engine_log_ratios(batch, batch.old_logp))["policy/engine_kl"] >= 0
