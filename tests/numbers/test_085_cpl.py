"""Contrastive preference learning [85]: the catalogue's numbers."""

import torch
from helpers import rows
from torch import Tensor, tensor
from torch.testing import assert_close

from unirl import Batch, make

# alpha .1; the preferred segment has summed log-probability -10, the other -14
SEGMENTS = rows(logp=[[-4.0, -6.0], [-9.0, -5.0]], pairs=[[0, 1]])


def digits(value: Tensor) -> float:
    return round(value.item(), 6)


def test_unbiased_loss_has_logit_four_tenths():
    # .1 * (-10) - .1 * (-14) = .4: -log sigma(.4)
    assert digits(make("objective", "cpl", alpha=0.1, bias=1.0)(SEGMENTS)) == 0.513015


def test_conservative_bias_gives_a_negative_logit():
    # -1 - .5 * (-1.4) = -.3: -log sigma(-.3)
    assert digits(make("objective", "cpl", alpha=0.1, bias=0.5)(SEGMENTS)) == 0.854355


def test_defaults_are_the_papers():
    part = make("objective", "cpl")
    assert (part.alpha, part.bias, part.gamma, part.reference) == (0.1, 0.5, 1.0, None)


def test_reversed_label_swaps_which_segment_is_discounted():
    # label 0: -log sigma(S_b - lambda S_a) = -log sigma(-1.4 + .5) = 1.2411539
    reversed_label = SEGMENTS.replace(pair_label=tensor([0.0]))
    assert round(make("objective", "cpl", alpha=0.1, bias=0.5)(reversed_label).item(), 7) == 1.2411539


def test_shift_invariance_holds_only_at_bias_one():
    shifted = SEGMENTS.replace(logp=SEGMENTS.logp + 3.0)
    for bias, invariant in ((1.0, True), (0.5, False)):
        part = make("objective", "cpl", bias=bias)
        assert torch.allclose(part(SEGMENTS), part(shifted)) is invariant


def test_with_a_reference_one_decision_and_bias_one_it_is_dpo_bitwise():
    generator = torch.Generator().manual_seed(0)
    logp, ref = torch.randn(2, 64, 1, generator=generator) * 3
    first = torch.arange(0, 64, 2)
    batch = Batch(
        mask=torch.ones(64, 1, dtype=torch.bool),
        logp=logp.requires_grad_(),
        anchor_logp={"ref": ref},
        pairs=torch.stack([first, first + 1], 1),
        pair_label=torch.rand(32, generator=generator),
    )
    cpl = make("objective", "cpl", alpha=0.1, bias=1.0, gamma=1.0, reference="ref")(batch)
    dpo = make("objective", "dpo", beta=0.1)(batch)
    assert torch.equal(cpl, dpo)
    gradients = [torch.autograd.grad(loss.sum(), logp, retain_graph=True)[0] for loss in (cpl, dpo)]
    assert torch.equal(*gradients)


def test_gradient_raises_the_preferred_segment_by_alpha_times_the_error():
    # alpha sigma(-.4) = .1 * .4013123399 on every decision of the preferred segment
    logp = SEGMENTS.logp.clone().requires_grad_()
    make("objective", "cpl", alpha=0.1, bias=1.0)(SEGMENTS.replace(logp=logp)).sum().backward()
    expected = tensor([[-0.04013123399] * 2, [0.04013123399] * 2], dtype=torch.float64)
    assert_close(logp.grad, expected, atol=1e-10, rtol=0)
