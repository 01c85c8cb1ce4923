"""Log-probabilities, likeliest tokens, entropies and divergences from chunks of logits: values, gradients, memory."""

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.testing import assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from unirl.llm.token_statistics import Head, token_statistics


class LargestTensor(TorchDispatchMode):
    """Remembers the number of elements of the largest floating-point tensor made."""

    def __init__(self) -> None:
        super().__init__()
        self.largest = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for leaf in out if isinstance(out, tuple | list) else [out]:
            if isinstance(leaf, torch.Tensor) and leaf.is_floating_point():
                self.largest = max(self.largest, leaf.numel())
        return out


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def naive(hidden: Tensor, targets: Tensor, head: Head, other: Tensor, other_head: Head, top: int) -> dict[str, Tensor]:
    """All statistics from all logits at once, left to autograd."""
    bias = 0.0 if head.bias is None else head.bias
    log_p = ((hidden @ head.weight.T + bias) / head.temperature).log_softmax(-1)
    log_q = (other @ other_head.weight.T / other_head.temperature).log_softmax(-1)
    top_logp, top_token = log_p.topk(min(top, log_p.shape[1]))
    return {
        **({"top_logp": top_logp, "top_token": top_token} if top else {}),
        "logp": log_p.gather(-1, targets[:, None]).squeeze(-1),
        "entropy": -(log_p.exp() * log_p).sum(-1),
        "kl.ref": (log_p.exp() * (log_p - log_q)).sum(-1),
    }


@given(
    rows=st.integers(0, 13),
    width=st.integers(1, 4),
    vocabulary=st.integers(1, 7),
    temperature=st.sampled_from([0.3, 1.0, 2.0]),
    biased=st.booleans(),
    top=st.integers(0, 9),
    logits_at_once=st.integers(1, 200),
)
def test_chunks_equal_the_plain_formula_in_values_and_gradients(
    rows: int, width: int, vocabulary: int, temperature: float, biased: bool, top: int, logits_at_once: int
) -> None:
    leaves = [drawn(rows, width), drawn(vocabulary, width, seed=2), *([drawn(vocabulary, seed=3)] if biased else [])]
    hidden, weight, *bias = [leaf.requires_grad_() for leaf in leaves]
    head = Head(weight, bias[0] if biased else None, temperature)
    targets = torch.arange(rows) % vocabulary
    ref = drawn(rows, width, seed=4), Head(drawn(vocabulary, width, seed=5), None, temperature)
    options = {"entropy": True, "anchors": {"ref": ref}, "logits_at_once": logits_at_once}
    found = token_statistics(hidden, targets, head, top=top, **options)
    expected = naive(hidden, targets, head, *ref, top)
    again = token_statistics(hidden, targets, head, top=expected.get("top_token", 0), **options)
    assert_close(found, expected, rtol=1e-11, atol=1e-11)
    assert_close(again, expected, rtol=1e-11, atol=1e-11)
    differentiable = [name for name in expected if name != "top_token"]
    slopes = {name: drawn(*expected[name].shape, seed=6 + i) for i, name in enumerate(differentiable)}
    gradients = [
        torch.autograd.grad(sum((slopes[name] * each[name]).sum() for name in differentiable), leaves)
        for each in (found, again, expected)
    ]
    assert_close(gradients[0], gradients[2], rtol=1e-9, atol=1e-9)
    assert_close(gradients[1], gradients[2], rtol=1e-9, atol=1e-9)


def test_gradient_of_a_log_probability_by_hand() -> None:
    # one state h = 2 and three tokens with logits W h = (0, 0, 0): p = 1/3 each. d log p_1 / dz = (-1/3, 2/3, -1/3),
    # so with slope 3 in the loss: dW = 3 * (-1/3, 2/3, -1/3) * h = (-2, 4, -2)
    weight = torch.zeros(3, 1, requires_grad=True)
    found = token_statistics(torch.tensor([[2.0]]), torch.tensor([1]), Head(weight, None, 1.0))
    (3 * found["logp"]).sum().backward()
    assert_close(weight.grad, torch.tensor([[-2.0], [4.0], [-2.0]]))


def test_gradient_of_given_choices_by_hand() -> None:
    # the same state and head; choices 0 and 2 with slopes 3 and -6: (3, 0, -6) - p (3 - 6) = (4, 1, -5), times h = 2
    weight = torch.zeros(3, 1, requires_grad=True)
    choices = torch.tensor([[0, 2]])
    found = token_statistics(torch.tensor([[2.0]]), torch.tensor([1]), Head(weight, None, 1.0), top=choices)
    assert_close(found["top_logp"], torch.full((1, 2), 1 / 3).log())
    (found["top_logp"] * torch.tensor([[3.0, -6.0]])).sum().backward()
    assert_close(weight.grad, torch.tensor([[8.0], [2.0], [-10.0]]))


@pytest.mark.parametrize("given", [False, True])
def test_no_tensor_of_all_logits_is_ever_made(given: bool) -> None:
    rows, vocabulary, top = 64, 97, 5
    hidden, weight = drawn(rows, 3).requires_grad_(), drawn(vocabulary, 3)
    choices = torch.arange(top).repeat(rows, 1) if given else top
    with LargestTensor() as seen:
        found = token_statistics(
            hidden,
            torch.arange(rows),
            Head(weight, None, 1.0),
            entropy=True,
            top=choices,
            logits_at_once=8 * vocabulary,
        )
        (found["logp"] + found["entropy"] + found["top_logp"].sum(-1)).sum().backward()
    assert seen.largest == 8 * vocabulary  # eight rows of logits, of 64


def test_a_frozen_head_gets_no_gradient_and_passes_the_same_one_on() -> None:
    hidden, weight, targets = drawn(9, 3), drawn(5, 3), torch.arange(9) % 5
    passed_on = []
    for trained in (False, True):
        states, head = hidden.clone().requires_grad_(), weight.clone().requires_grad_(trained)
        token_statistics(states, targets, Head(head, None, 1.0))["logp"].sum().backward()
        passed_on.append(states.grad)
        assert (head.grad is not None) == trained
    assert torch.equal(*passed_on)


def test_the_gradient_of_a_half_precision_head_is_summed_up_in_full_precision() -> None:
    # 4096 rows of h = (1, 1) and p = (1/2, 1/2): each adds 1/2, in chunks of two rows 1. Sums of ones in bfloat16
    # get no further than 256 (8 bits of mantissa); the true sum is 2048
    weight = torch.zeros(2, 2, dtype=torch.bfloat16, requires_grad=True)
    hidden, targets = torch.ones(4096, 2, dtype=torch.bfloat16), torch.zeros(4096, dtype=torch.long)
    found = token_statistics(hidden, targets, Head(weight, None, 1.0), logits_at_once=1)
    assert found["logp"].dtype == torch.float32
    found["logp"].sum().backward()
    assert weight.grad is not None and weight.grad.tolist() == [[2048.0, 2048.0], [-2048.0, -2048.0]]
