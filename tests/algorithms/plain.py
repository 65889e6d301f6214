"""Perceptrons of the package as plain float64 modules, for independent calculations."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


def linear(weight: torch.Tensor, bias: torch.Tensor) -> nn.Linear:
    """Return an affine layer of a weight (out, in) and a bias (out,)."""
    layer = nn.Linear(weight.shape[1], weight.shape[0], dtype=torch.float64)
    layer.weight.data, layer.bias.data = weight.double().clone(), bias.double().clone()
    return layer


def norm(weight: torch.Tensor, bias: torch.Tensor) -> nn.LayerNorm:
    """Return a layer normalisation."""
    layer = nn.LayerNorm(len(weight), eps=1e-6, dtype=torch.float64)
    layer.weight.data, layer.bias.data = weight.double().clone(), bias.double().clone()
    return layer


def plain(perceptron: Any, member: int | None = None, activation: Callable[[], nn.Module] = nn.ReLU) -> nn.Sequential:
    """Return one perceptron, or one member of several side by side, as a sequence of layers with the same weights."""

    def of(layer: Any) -> nn.Linear:
        weight, bias = layer.weight.detach(), layer.bias.detach()
        return linear(weight, bias) if member is None else linear(weight[member].T, bias[member, 0])

    layers: list[nn.Module] = []
    for index, layer in enumerate(perceptron.hidden):
        layers += [of(layer), activation()]
        if perceptron.norms is not None:
            weight, bias = perceptron.norms[index].weight.detach(), perceptron.norms[index].bias.detach()
            layers.append(norm(weight, bias) if member is None else norm(weight[member, 0], bias[member, 0]))
    return nn.Sequential(*layers, of(perceptron.output))


def critics(stacked: Any, **options: Any) -> list[nn.Sequential]:
    """Return every critic by itself."""
    return [plain(stacked.body, member, **options) for member in range(stacked.num_critics)]


def flat(tensors: Any) -> torch.Tensor:
    """Return all numbers of some tensors in one, float64."""
    return torch.cat([tensor.detach().double().flatten() for tensor in tensors])


def ordered(network: nn.Sequential) -> list[nn.Parameter]:
    """Return the parameters in the package's order: hidden layers, normalisations, output."""
    layers = [layer for layer in network if isinstance(layer, nn.Linear)]
    norms = [layer for layer in network if isinstance(layer, nn.LayerNorm)]
    return [parameter for layer in [*layers[:-1], *norms, layers[-1]] for parameter in layer.parameters()]


def gradients_of(networks: list[nn.Sequential]) -> torch.Tensor:
    """Return the gradients of critics in the order in which a stacked module keeps them."""
    per_parameter = zip(*(ordered(network) for network in networks), strict=True)
    stacked = []
    for parameters in per_parameter:
        grads = [parameter.grad for parameter in parameters]
        stacked.append(torch.stack([g.T if g.dim() == 2 else g for g in grads]))
    return flat(stacked)


def assert_gradients(network: nn.Module, expected: torch.Tensor, tolerance: float = 1e-5) -> None:
    """Compare the gradients that the last step left in a network with others, relative to their norm."""
    ours = flat(parameter.grad for parameter in network.parameters())
    assert ours.shape == expected.shape
    assert expected.norm() > 0
    assert (ours - expected).norm() / expected.norm() < tolerance
