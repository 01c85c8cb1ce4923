"""Parameters in half precision are stepped as float32 copies."""

import sys

import pytest
import torch
from torch import nn

from unirl.errors import UserError
from unirl.optim import make_update


def half(*values: float, dtype: torch.dtype = torch.bfloat16) -> nn.Parameter:
    return nn.Parameter(torch.tensor(values, dtype=dtype))


def slope(*parameters: nn.Parameter, each: float = 1.0):
    """A loss with the same slope in every direction."""

    def closure(names):
        loss = torch.stack([each * parameter.sum() for parameter in parameters]).sum()
        loss.backward()
        return dict.fromkeys(names, loss.detach())

    return closure


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_updates_below_the_precision_are_lost_without_masters_and_add_up_with_them(dtype):
    # 100 steps of 1e-4 from 1: .99. bfloat16's neighbours below 1 are 2^-8 = .0039 apart, float16's 2^-11 = .00049;
    # a step of 1e-4 is less than half of either, so each one alone rounds back to 1
    kept, lost = half(1.0, dtype=dtype), half(1.0, dtype=dtype)
    with_masters = make_update({"name": "sgd", "lr": 1e-4}, {"policy": [kept]})
    without = make_update({"name": "sgd", "lr": 1e-4, "master_weights": False}, {"policy": [lost]})
    for _ in range(100):
        with_masters(slope(kept))
        without(slope(lost))
    assert lost.item() == 1.0
    assert kept.item() == torch.tensor(0.99).to(dtype).item()
    assert kept.dtype == dtype


def test_full_precision_has_no_masters():
    weight = half(1.0, dtype=torch.float32)
    update = make_update({"name": "sgd", "lr": 1e-4}, {"policy": [weight]})
    assert "masters" not in update.state_dict()
    assert update._optimizers[0].param_groups[0]["params"][0] is weight


def test_the_norm_is_clipped_in_single_precision():
    # 1000 gradients of 1: norm 31.623, which bfloat16 knows as 31.625; clipped to 1 each is 1/31.623 = .0316228
    weight = nn.Parameter(torch.zeros(1000, dtype=torch.bfloat16))
    update = make_update({"name": "sgd", "lr": 1.0, "clip_norm": 1.0}, {"policy": [weight]})
    reported = update(slope(weight))
    assert reported["gradient_norm/policy"] == pytest.approx(1000**0.5, rel=1e-6)
    assert update.state_dict()["masters"]["masters"][0][0].item() == pytest.approx(-1 / 1000**0.5, rel=1e-6)


@pytest.mark.parametrize(("rule", "total"), [("plain", 300), ("project_conflicts", 256)])
def test_micro_batches_add_up_in_single_precision_where_the_rule_evaluates_once(rule, total):
    # 300 gradients of 1; in bfloat16 256 + 1 is 256
    weight = half(0.0)

    def pieces(names):
        for _ in range(300):
            weight.sum().backward()
        return dict.fromkeys(names, torch.zeros(()))

    update = make_update({"name": "sgd", "lr": 1.0, "gradient": rule}, {"policy": [weight]})
    update(pieces)
    assert update.state_dict()["masters"]["masters"][0].item() == -total


def test_a_gradient_rule_sees_and_moves_the_parameters_themselves():
    # extragradient on (w - 3)^2 / 2 from 1 with rate .5: looks ahead to 2, gradient there -1, so 1 + .5
    weight = half(1.0)

    def closure(names):
        loss = 0.5 * (weight - 3).square().sum()
        loss.backward()
        return dict.fromkeys(names, loss.detach())

    make_update({"name": "sgd", "lr": 0.5, "gradient": "extragradient"}, {"policy": [weight]})(closure)
    assert weight.item() == 1.5


def test_a_parameter_that_was_moved_from_outside_is_taken_over_and_rounding_is_not():
    weight = half(1.0, 1.0)
    update = make_update({"name": "sgd", "lr": 1e-3}, {"policy": [weight]})
    update(slope(weight))  # masters .999, parameters 1 (rounded)
    with torch.no_grad():
        weight[0] = 0.5
    update(slope(weight))
    masters = update.state_dict()["masters"]["masters"][0]
    assert masters.tolist() == pytest.approx([0.499, 0.998])


def test_a_parameter_without_a_gradient_stays():
    used, unused = half(1.0), half(0.3)
    before = unused.item()
    update = make_update({"name": "adamw", "lr": 0.1, "weight_decay": 0.5}, {"policy": [used, unused]})
    update(slope(used))
    assert unused.item() == before
    assert used.item() < 1.0


def test_two_losses_in_one_block_and_full_precision_beside_half():
    low, full = half(1.0), half(1.0, dtype=torch.float32)
    update = make_update({"name": "sgd", "lr": 1e-3, "together": True}, {"policy": [low], "value": [full]})
    for _ in range(4):
        update(slope(low, full))
    assert full.item() == pytest.approx(0.996)
    assert low.item() == 0.99609375  # .996 * 256 = 254.98: 255/256


def test_resuming_continues_from_the_unrounded_weights():
    def run(steps: int, weight: nn.Parameter, state=None):
        update = make_update({"name": "adamw", "lr": 1e-4, "average": 0.9}, {"policy": [weight]})
        if state is not None:
            update.load_state_dict(state)
        for _ in range(steps):
            update(slope(weight, each=0.7))
        return update.state_dict()

    whole, part = half(1.0, -0.3), half(1.0, -0.3)
    expected = run(60, whole)
    state = run(23, part)
    continued = half(*part.tolist())
    found = run(37, continued, state)
    assert torch.equal(whole, continued)
    assert torch.equal(expected["masters"]["masters"][0], found["masters"]["masters"][0])
    assert torch.equal(expected["average"]["averages"][0], found["average"]["averages"][0])


def test_averages_are_not_rounded_and_evaluation_leaves_both_as_they_were():
    weight = half(1.0)
    update = make_update({"name": "sgd", "lr": 2.0**-8, "average": 1.0}, {"policy": [weight]})
    for _ in range(2):
        update(slope(weight))  # 255/256 and 254/256: mean 254.5/256, which bfloat16 cannot hold
    for _ in range(2):
        with update.averaged_weights():
            assert weight.item() in (254 / 256, 255 / 256)
        assert weight.item() == 254 / 256
    assert update.state_dict()["average"]["averages"][0].item() == 254.5 / 256


def test_eight_bit_moments_name_the_package_that_is_not_there(monkeypatch):
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(UserError, match="adamw8bit needs the package 'bitsandbytes': pip install bitsandbytes"):
        make_update({"name": "adamw8bit"}, {"policy": [half(1.0)]})


def test_eight_bit_moments_need_a_gpu(monkeypatch):
    package = type(sys)("bitsandbytes.optim")
    package.AdamW8bit = torch.optim.AdamW
    monkeypatch.setitem(sys.modules, "bitsandbytes", type(sys)("bitsandbytes"))
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", package)
    with pytest.raises(UserError, match="adamw8bit needs a GPU"):
        make_update({"name": "adamw8bit"}, {"policy": [half(1.0)]})
