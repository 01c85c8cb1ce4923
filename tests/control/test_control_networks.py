"""The stacked ensemble against separate networks."""

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from unirl.control.networks import EnsembleMLP, ValueMLP, mlp
from unirl.errors import UserError


def separate(ensemble: EnsembleMLP, head: int, activation: str) -> nn.Sequential:
    sizes = [ensemble.weights[0].shape[1], *(weight.shape[2] for weight in ensemble.weights)]
    network = mlp(sizes, activation)
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    for layer, weight, bias in zip(linear, ensemble.weights, ensemble.biases, strict=True):
        layer.weight.data, layer.bias.data = weight[head].detach().T.clone(), bias[head, 0].detach().clone()
    return network


@pytest.mark.parametrize(("outputs", "activation"), [(1, "relu"), (3, "tanh")])
def test_ensemble_equals_separate_mlps_in_values_and_gradients(outputs, activation):
    torch.manual_seed(0)
    ensemble = EnsembleMLP(2, [4, 8, 8, outputs], activation)
    x = torch.randn(5, 3, 4, requires_grad=True)
    values = ensemble(x)
    assert values.shape == ((2, 5, 3) if outputs == 1 else (2, 5, 3, outputs))
    values.square().sum().backward()
    x_of_heads = torch.zeros_like(x)
    for head in range(2):
        network, own = separate(ensemble, head, activation), x.detach().clone().requires_grad_()
        expected = network(own)
        assert_close(values[head], expected.squeeze(-1))
        expected.square().sum().backward()
        x_of_heads += own.grad
        first = next(layer for layer in network if isinstance(layer, nn.Linear))
        assert_close(ensemble.weights[0].grad[head].T, first.weight.grad)
    assert_close(x.grad, x_of_heads)


def test_frozen_ensemble_passes_the_gradient_to_its_input_only():
    ensemble = EnsembleMLP(2, [4, 8, 1])
    x = torch.randn(5, 4, requires_grad=True)
    assert_close(ensemble(x, frozen=True), ensemble(x))
    ensemble(x, frozen=True).sum().backward()
    assert x.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in ensemble.parameters())


def test_heads_start_apart_within_the_bounds_of_linear_layers():
    ensemble = EnsembleMLP(3, [16, 8, 1])
    assert not torch.equal(ensemble.weights[0][0], ensemble.weights[0][1])
    assert ensemble.weights[0].abs().max() <= 0.25  # 1 / sqrt(16)


def test_value_network_starts_orthogonal():
    weight = ValueMLP(4, [4], "tanh").network[0].weight
    assert_close(weight @ weight.T, 2 * torch.eye(4), atol=1e-5, rtol=0)


def test_unknown_activation_names_the_near_match():
    with pytest.raises(UserError, match=r"unknown activation .*'rleu' \(did you mean relu"):
        mlp([1, 1], "rleu")
