"""The three passes through the critics that one gradient step makes, a few critics at a time, with gradients written out.

Critics do not see each other before the loss, so each chunk of them runs forward and backward while its activations are in
the cache: with 64 critics, 256 rows and 256 units one layer of all of them is 16 MB, one layer of a chunk 1 MB. The backward
passes are written by hand because autograd would keep every chunk's activations until the last chunk is done.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from edp_lightning.networks.ensemble import ACTIVATIONS, CriticActivation, CriticNorm, QEnsemble, normalize_units
from edp_lightning.networks.mish import mish_with_derivative

CHUNK_BYTES = 1 << 20
"""Bytes of one layer's activations in a chunk on a CPU: the second-level cache of one core."""


class Layers(NamedTuple):
    """Parameters of some critics, hidden layers first.

    Attributes:
        weights: One (critics, in, out) per layer.
        biases: One (critics, 1, out) per layer.
        activation: After each hidden layer.
        norm: Before the bias of each hidden layer.
    """

    weights: list[Tensor]
    biases: list[Tensor]
    activation: CriticActivation = "mish"
    norm: CriticNorm = "none"


class TDGradients(NamedTuple):
    """Result of :meth:`CriticPasses.td_gradients`.

    Attributes:
        loss: Mean squared TD error over critics and rows, scalar.
        q: Q-values, shape (num_critics, batch).
        gradients: Gradients of the loss in the order of ``critic.parameters()``; they use the memory of the parameters'
            former gradients, so the next call overwrites them.
    """

    loss: Tensor
    q: Tensor
    gradients: list[Tensor]


def values_pass(layers: Layers, inputs: Tensor, dtype: torch.dtype) -> Tensor:
    """Return Q-values (critics, rows), float32, of ``inputs`` (rows, observation_dim + action_dim), or one such per critic."""
    x = inputs.to(dtype).expand(len(layers.weights[0]), -1, -1)
    for weight, bias in zip(layers.weights[:-1], layers.biases[:-1], strict=True):
        product = torch.bmm(x, weight.to(dtype))
        normal = normalize_units(product)[0] if layers.norm == "layer" else product
        x = ACTIVATIONS[layers.activation](normal + bias).to(dtype)
    return head_values(layers, x)


def td_pass(layers: Layers, inputs: Tensor, target: Tensor, num_critics: int, dtype: torch.dtype) -> tuple[Tensor, ...]:
    """Return these critics' share of the TD loss, their Q-values and the loss's gradients.

    Args:
        layers: Parameters of some critics.
        inputs: Rows (rows, observation_dim + action_dim).
        target: Targets of these critics, shape (critics, rows).
        num_critics: Number M of all critics, over which the loss is a mean.
        dtype: Precision of the hidden layers.

    Returns:
        Loss (scalar), Q-values (critics, rows), then weight and bias gradients of each layer, hidden layers first.
    """
    q, activations, derivatives, cast, norms = _forward(layers, inputs, dtype)
    error = q - target
    count = num_critics * len(inputs)
    grad_q = (error * (2 / count)).unsqueeze(-1)  # (critics, rows, 1)
    gradients = [grad_q.sum(1, keepdim=True), (activations[-1].float() * grad_q).sum(1).unsqueeze(-1)]
    grad = grad_q * layers.weights[-1].transpose(1, 2)
    for index in reversed(range(len(derivatives))):
        grad = grad.float() * derivatives[index].float()
        gradients.append(grad.sum(1, keepdim=True))
        grad = before_norm(grad, norms[index]).to(dtype)
        gradients.append(torch.bmm(activations[index].transpose(1, 2), grad).float())
        if index:
            grad = torch.bmm(grad, cast[index].transpose(1, 2))
    return error.square().sum() / count, q, *reversed(gradients)


def action_pass(layers: Layers, inputs: Tensor, action_dim: int, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return Q-values (critics, rows) and their derivatives by the action (critics, rows, action_dim), both float32.

    The action is the last ``action_dim`` columns of ``inputs`` (rows, observation_dim + action_dim).
    """
    q, _, derivatives, cast, norms = _forward(layers, inputs, dtype)
    grad = layers.weights[-1].transpose(1, 2)
    for index in reversed(range(len(derivatives))):
        grad = before_norm(grad.float() * derivatives[index].float(), norms[index]).to(dtype)
        weight = cast[index] if index else cast[0][:, -action_dim:]
        grad = torch.bmm(grad, weight.transpose(1, 2))
    return q, grad.float()


def with_action_gradient(q: Tensor, derivative: Tensor, action: Tensor) -> Tensor:
    """Return ``q`` (critics, rows) as a function of ``action`` whose gradient is ``derivative`` (critics, rows, action_dim)."""
    return q + (derivative * (action - action.detach())).sum(-1)


class Norm(NamedTuple):
    """What the backward pass through a layer's normalisation needs: its result, and the inverse deviation of each row."""

    normal: Tensor
    inverse_std: Tensor


def before_norm(grad: Tensor, norm: Norm | None) -> Tensor:
    """Return the gradient by a layer's products from the one by what its normalisation made of them, float32.

    With n = (z - mean) r: dz = r (dn - mean(dn) - n mean(n dn)), means over the units.
    """
    if norm is None:
        return grad
    normal = norm.normal.float()
    rest = grad - grad.mean(-1, keepdim=True) - normal * (normal * grad).mean(-1, keepdim=True)
    return rest * norm.inverse_std


class _Forward(NamedTuple):
    """Q-values with what a backward pass needs: inputs of each layer, derivatives of the activation, weights in ``dtype``."""

    q: Tensor
    activations: list[Tensor]
    derivatives: list[Tensor]
    cast: list[Tensor]
    norms: list[Norm | None]


def relu_with_derivative(x: Tensor) -> tuple[Tensor, Tensor]:
    """Return max(x, 0) and its derivative, 0 at 0, both float32."""
    x = x.float()
    return x.relu(), (x > 0).float()


def _forward(layers: Layers, inputs: Tensor, dtype: torch.dtype) -> _Forward:
    x = inputs.to(dtype).expand(len(layers.weights[0]), -1, -1)
    activations, derivatives, cast = [x], [], []
    norms: list[Norm | None] = []
    with_derivative = mish_with_derivative if layers.activation == "mish" else relu_with_derivative
    for weight, bias in zip(layers.weights[:-1], layers.biases[:-1], strict=True):
        cast.append(weight.to(dtype))
        product = torch.bmm(x, cast[-1])
        if layers.norm == "layer":
            product, _, inverse_std = normalize_units(product)
            norms.append(Norm(product.to(dtype), inverse_std))
        else:
            norms.append(None)
        # The bias is added in float32, in the same compiled kernel as the activation.
        activated, derivative = with_derivative(product + bias)
        x = activated.to(dtype)
        activations.append(x)
        derivatives.append(derivative.to(dtype))
    return _Forward(head_values(layers, x), activations, derivatives, cast, norms)


def head_values(layers: Layers, x: Tensor) -> Tensor:
    """Return the output layer's values (critics, rows): one column, so a sum of products, compiled into the last activation.

    A matrix product would be in TF32 on a GPU whose products are.
    """
    return (x.float() * layers.weights[-1].transpose(1, 2)).sum(-1) + layers.biases[-1].squeeze(-1)


class PassFunctions(NamedTuple):
    """The passes for one kind of device: :func:`values_pass`, :func:`td_pass`, :func:`action_pass`, or what replaces them."""

    values: Callable[..., Tensor]
    td: Callable[..., tuple[Tensor, ...]]
    action: Callable[..., tuple[Tensor, Tensor]]


CPU_PASSES = PassFunctions(values_pass, td_pass, action_pass)


class CriticPasses:
    """Runs the passes over all critics of an ensemble.

    Args:
        prepare: Wraps each pass before its first use, for example with ``compile_or_eager``.
        functions: The passes for the device the critics are on.
    """

    def __init__(self, prepare: Callable[[Any], Any], functions: PassFunctions = CPU_PASSES) -> None:
        self._values, self._td, self._action = map(prepare, functions)

    @torch.no_grad()
    def values(self, critic: QEnsemble, inputs: Tensor) -> Tensor:
        """Return Q-values (num_critics, rows) of ``inputs`` (rows, observation_dim + action_dim), or one such per critic."""
        return values_in_chunks(self._values, critic, inputs)

    @torch.no_grad()
    def td_gradients(self, critic: QEnsemble, inputs: Tensor, target: Tensor) -> TDGradients:
        """Return the TD loss of ``inputs`` (rows, observation_dim + action_dim) to ``target`` (num_critics, rows)."""
        chunks = _chunks(critic, len(inputs))
        if len(chunks) == 1:
            loss, q, *gradients = self._td(chunks[0], inputs, target, critic.num_critics, critic.hidden_dtype)
            return TDGradients(loss, q, gradients)
        gradients = gradient_memory(critic)
        losses, values, first = [], [], 0
        for layers in chunks:
            last = first + len(layers.weights[0])
            loss, q, *parts = self._td(layers, inputs, target[first:last], critic.num_critics, critic.hidden_dtype)
            torch._foreach_copy_([gradient[first:last] for gradient in gradients], parts)
            losses.append(loss)
            values.append(q)
            first = last
        return TDGradients(torch.stack(losses).sum(), torch.cat(values), gradients)

    @torch.no_grad()
    def action_values(self, critic: QEnsemble, inputs: Tensor, action_dim: int) -> tuple[Tensor, Tensor]:
        """Return Q-values (num_critics, rows) and their derivatives by the action (num_critics, rows, action_dim)."""
        parts = [self._action(c, inputs, action_dim, critic.hidden_dtype) for c in _chunks(critic, len(inputs))]
        return torch.cat([q for q, _ in parts]), torch.cat([derivative for _, derivative in parts])


def values_in_chunks(values: Callable[..., Tensor], critic: QEnsemble, inputs: Tensor) -> Tensor:
    """Return Q-values (num_critics, rows) of ``inputs``, with ``values`` (``values_pass``, maybe compiled) for some critics."""
    chunks = _chunks(critic, inputs.shape[-2])
    if inputs.dim() == 2:
        parts: Sequence[Tensor] = [inputs] * len(chunks)
    else:
        parts = torch.split(inputs, [len(layers.weights[0]) for layers in chunks])
    return torch.cat([values(layers, part, critic.hidden_dtype) for layers, part in zip(chunks, parts, strict=True)])


def chunk_sizes(num_critics: int, rows: int, width: int, dtype: torch.dtype, device: torch.device) -> list[int]:
    """Return numbers of critics per chunk, differing by at most one; all critics in one chunk on anything but a CPU."""
    if device.type != "cpu":
        return [num_critics]
    most = max(1, CHUNK_BYTES // (rows * width * dtype.itemsize))
    count = -(-num_critics // most)
    small, larger = divmod(num_critics, count)
    return [small + (index < larger) for index in range(count)]


def gradient_memory(critic: QEnsemble) -> list[Tensor]:
    """Return one tensor per parameter to write gradients into, where there are some the memory of the last ones."""
    # Memory of this size would come from the system, page by page, at every step.
    return [torch.empty_like(p) if p.grad is None else p.grad for p in critic.parameters()]


def all_layers(critic: QEnsemble) -> Layers:
    """Return the parameters of all critics."""
    modules = [*critic.hidden, critic.output]
    weights, biases = [module.weight.detach() for module in modules], [module.bias.detach() for module in modules]
    return Layers(weights, biases, critic.activation, critic.norm)


def _chunks(critic: QEnsemble, rows: int) -> list[Layers]:
    layers = all_layers(critic)
    width = max(weight.shape[2] for weight in layers.weights)
    sizes = chunk_sizes(critic.num_critics, rows, width, critic.hidden_dtype, critic.output.weight.device)
    if len(sizes) == 1:
        return [layers]
    weights = [torch.split(weight, sizes) for weight in layers.weights]
    biases = [torch.split(bias, sizes) for bias in layers.biases]
    parts = zip(zip(*weights, strict=True), zip(*biases, strict=True), strict=True)
    return [Layers(list(w), list(b), critic.activation, critic.norm) for w, b in parts]
