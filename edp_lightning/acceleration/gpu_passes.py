"""The passes of ``critic_passes`` as a GPU wants them: all critics at once, few reads and writes of memory, aligned products.

What is kept for the backward pass is the input of Mish, which its backward kernel takes; on a CPU the derivative is kept, for
one exponential less. Weights' gradients leave the products in float32. The functions run on any device, with the same results
up to rounding. Speed is not measured on a GPU yet: ``python benchmarks/gpu_check.py``.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from edp_lightning.acceleration.critic_passes import Layers, Norm, PassFunctions, before_norm, head_values
from edp_lightning.networks.ensemble import normalize_units

ALIGNMENT = 8
"""Numbers that a row must be a multiple of for tensor cores to load it whole: 16 bytes of bfloat16."""

FLOAT32_PRODUCTS = hasattr(torch.ops.aten.bmm, "dtype")
"""Whether this torch can multiply bfloat16 matrices into a float32 one; from 2.8 on, on CUDA."""


def values_pass(layers: Layers, inputs: Tensor, dtype: torch.dtype) -> Tensor:
    """Return Q-values; see ``critic_passes.values_pass``."""
    return _forward(layers, inputs, dtype)[0]


def td_pass(layers: Layers, inputs: Tensor, target: Tensor, num_critics: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Return loss, Q-values and gradients; see ``critic_passes.td_pass``."""
    q, activations, before, cast, norms = _forward(layers, inputs, dtype)
    error = q - target
    count = num_critics * len(inputs)
    grad_q = (error * (2 / count)).unsqueeze(-1)  # (critics, rows, 1)
    gradients = [grad_q.sum(1, keepdim=True), (activations[-1].float() * grad_q).sum(1).unsqueeze(-1)]
    grad = (grad_q * layers.weights[-1].transpose(1, 2)).to(dtype)
    for index in reversed(range(len(before))):
        grad = torch.ops.aten.mish_backward(grad, before[index])
        gradients.append(grad.sum(1, keepdim=True, dtype=torch.float32))
        grad = before_norm(grad, norms[index]).to(dtype)
        product = _float32_product(activations[index].transpose(1, 2), grad)
        gradients.append(product if index else product[:, : inputs.shape[1]].contiguous())  # without the padding
        if index:
            grad = torch.bmm(grad, cast[index].transpose(1, 2))
    return error.square().sum() / count, q, *reversed(gradients)


def action_pass(layers: Layers, inputs: Tensor, action_dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return Q-values and their derivatives by the action; see ``critic_passes.action_pass``."""
    q, _, before, cast, norms = _forward(layers, inputs, dtype)
    width = inputs.shape[1]
    grad = layers.weights[-1].transpose(1, 2).to(dtype)
    for index in reversed(range(len(before))):
        grad = torch.ops.aten.mish_backward(grad.expand_as(before[index]), before[index])
        grad = before_norm(grad, norms[index]).to(dtype)
        weight = cast[index] if index else cast[0][:, width - action_dim : width]
        grad = torch.bmm(grad, weight.transpose(1, 2))
    return q, grad.float()


GPU_PASSES = PassFunctions(values_pass, td_pass, action_pass)


class _Forward(NamedTuple):
    """Q-values, the input of each layer, the input of each Mish, the hidden weights in ``dtype``, and the normalisations."""

    q: Tensor
    activations: list[Tensor]
    before: list[Tensor]
    cast: list[Tensor]
    norms: list[Norm | None]


def _forward(layers: Layers, inputs: Tensor, dtype: torch.dtype) -> _Forward:
    padding = -inputs.shape[1] % ALIGNMENT
    x = F.pad(inputs.to(dtype), (0, padding)).expand(len(layers.weights[0]), -1, -1)
    activations: list[Tensor] = [x]
    before: list[Tensor] = []
    cast: list[Tensor] = []
    norms: list[Norm | None] = []
    for weight, bias in zip(layers.weights[:-1], layers.biases[:-1], strict=True):
        weight = weight.to(dtype)
        cast.append(weight if cast else F.pad(weight, (0, 0, 0, padding)))
        if layers.norm == "layer":
            normal, _, inverse_std = normalize_units(torch.bmm(x, cast[-1]))
            norms.append(Norm(normal.to(dtype), inverse_std))
            before.append((normal + bias).to(dtype))
        else:
            norms.append(None)
            before.append(torch.baddbmm(bias.to(dtype), x, cast[-1]))
        x = F.mish(before[-1])
        activations.append(x)
    return _Forward(head_values(layers, x), activations, before, cast, norms)


def _float32_product(a: Tensor, b: Tensor) -> Tensor:
    """Return the products of two batches of matrices in float32, without rounding them to the factors' dtype on the way."""
    if a.dtype == torch.float32:
        return torch.bmm(a, b)
    if FLOAT32_PRODUCTS and a.device.type == "cuda":
        return torch.bmm(a, b, out_dtype=torch.float32)
    return torch.bmm(a, b).float()
