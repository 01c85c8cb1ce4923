"""Layers and stacked ensembles against separate networks; half precision against float32."""

import copy

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from unirl.control.networks import MLP, ValueMLP, hidden_sizes, orthogonal
from unirl.errors import UserError


def linear_layers(network: MLP, head: int | None, activation: type[nn.Module]) -> nn.Sequential:
    """The same function as a usual `nn.Sequential`."""
    layers: list[nn.Module] = []
    for weight, bias in zip(network.weights, network.biases, strict=True):
        weight, bias = (weight, bias) if head is None else (weight[head], bias[head, 0])
        layer = nn.Linear(*weight.shape)
        layer.weight.data, layer.bias.data = weight.detach().T.clone(), bias.detach().clone()
        layers += [layer, activation()]
    return nn.Sequential(*layers[:-1])


@pytest.mark.parametrize("heads", [None, 2])
@pytest.mark.parametrize(("outputs", "activation"), [(1, "relu"), (3, "tanh")])
def test_values_and_gradients_are_those_of_separate_linear_layers(heads, outputs, activation):
    torch.manual_seed(0)
    network = MLP([4, 8, 8, outputs], activation, heads)
    x = torch.randn(5, 3, 4, requires_grad=True)
    values = network(x)
    assert values.shape == ((5, 3, outputs) if heads is None else (heads, 5, 3, outputs))
    values.square().sum().backward()
    expected_gradient = torch.zeros_like(x)
    for head in [None] if heads is None else range(heads):
        usual, own = linear_layers(network, head, {"relu": nn.ReLU, "tanh": nn.Tanh}[activation]), x.detach().clone()
        expected = usual(own.requires_grad_())
        assert_close(values if head is None else values[head], expected)
        expected.square().sum().backward()
        expected_gradient += own.grad
        first = network.weights[0].grad if head is None else network.weights[0].grad[head]
        assert_close(first.T, usual[0].weight.grad)
    assert_close(x.grad, expected_gradient)


@pytest.mark.parametrize("half", [False, True])
def test_frozen_layers_pass_the_gradient_to_their_input_only(half):
    network = ValueMLP([4, 8, 1], heads=2, half=half)
    x = torch.randn(100, 4, requires_grad=True)
    assert network(x).shape == (2, 100)
    assert_close(network(x, frozen=True), network(x))
    network(x, frozen=True).sum().backward()
    assert x.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("options", [{}, {"layer_norm": True}, {"half": True}])
def test_the_first_head_alone_has_its_value_and_its_gradient(options):
    network = ValueMLP([4, 8, 8, 1], heads=3, **options)
    x = torch.randn(2, 50, 4, requires_grad=True)
    (alone,) = torch.autograd.grad(network.first_head(x).square().sum(), x)
    (among_others,) = torch.autograd.grad(network(x, frozen=True)[0].square().sum(), x)
    assert_close(network.first_head(x), network(x)[0])
    assert_close(alone, among_others)


def test_the_first_head_costs_nothing_for_the_others():
    network = ValueMLP([4, 8, 1], heads=2)
    with torch.no_grad():
        network.weights[0][1] = float("nan")
    x = torch.randn(5, 4, requires_grad=True)
    network.first_head(x).sum().backward()
    assert x.grad.isfinite().all()
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("heads", [None, 2])
def test_half_precision_follows_float32_within_percents_in_values_and_gradients(heads):
    torch.manual_seed(0)
    network = MLP([6, 32, 32, 3], heads=heads)
    half = MLP([6, 32, 32, 3], heads=heads, half=True)
    half.load_state_dict(network.state_dict())
    x = torch.randn(256, 6)
    gradients = []
    for each in (network, half):
        own = x.clone().requires_grad_()
        each(own).square().sum().backward()
        gradients.append([own.grad, *(parameter.grad for parameter in each.parameters())])
    assert_close(half(x), network(x), atol=0.02, rtol=0.02)
    for ours, exact in zip(*reversed(gradients), strict=True):
        assert ours.dtype == torch.float32
        assert (ours - exact).norm() < 0.05 * exact.norm()


def test_half_precision_is_for_many_rows_only():
    network = MLP([6, 32, 32, 3], half=True)
    exact = MLP([6, 32, 32, 3])
    exact.load_state_dict(network.state_dict())
    x = torch.randn(256, 6)
    assert torch.equal(network(x[:8]), exact(x[:8]))
    assert not torch.equal(network(x), exact(x))


def test_a_copied_half_precision_network_follows_its_own_weights():
    network = MLP([6, 32, 32, 3], half=True)
    follower = copy.deepcopy(network)
    x = torch.randn(128, 6)
    before = follower(x)
    with torch.no_grad():
        network.weights[0].mul_(2)
    network(x)
    assert torch.equal(follower(x), before)


def test_heads_start_apart_within_the_bounds_of_linear_layers():
    network = ValueMLP([16, 8, 1], heads=3)
    assert not torch.equal(network.weights[0][0], network.weights[0][1])
    assert network.weights[0].abs().max() <= 0.25  # 1 / sqrt(16)


def test_orthogonal_weights_have_gain_root_two_and_the_last_layer_its_own():
    network = orthogonal(MLP([4, 4, 4], "tanh"), output_gain=0.01)
    first, last = network.weights
    assert_close(first @ first.T, 2 * torch.eye(4), atol=1e-5, rtol=0)
    assert_close(last @ last.T, 1e-4 * torch.eye(4), atol=1e-9, rtol=0)


def test_unknown_activation_names_the_near_match():
    with pytest.raises(UserError, match=r"unknown activation .*'rleu' \(did you mean relu"):
        MLP([1, 1], "rleu")


@pytest.mark.parametrize("given", [64, "64", [64, 0], [64, "x"]])
def test_hidden_sizes_are_a_list_of_positive_numbers(given):
    assert hidden_sizes({}) == [256, 256]
    assert hidden_sizes({"hidden": [64]}) == [64]
    with pytest.raises(UserError, match=r"model.hidden is .*; give the sizes of the layers"):
        hidden_sizes({"hidden": given})
