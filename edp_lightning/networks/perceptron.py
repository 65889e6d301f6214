"""Plain multi-layer perceptrons, one or several side by side as one batched product."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edp_lightning.networks.ensemble import EnsembleLinear, initialize_members
from edp_lightning.networks.initialization import TORCH, Initialization, Initialize
from edp_lightning.networks.mish import mish

Activation = Literal["relu", "gelu", "mish"]

ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": lambda x: F.gelu(x, approximate="tanh"),
    "mish": mish,
}
"""``gelu`` is the tanh form, which JAX's libraries mean by that name."""

NORM_EPS = 1e-6
"""Flax's, where the normalised networks here come from."""


class CastLinear(nn.Linear):
    """An affine layer that computes in the dtype of its input; its parameters stay float32."""

    def forward(self, x: Tensor) -> Tensor:
        """Map (..., in) to (..., out)."""
        return F.linear(x, self.weight.to(x.dtype), self.bias.to(x.dtype))


class MemberNorm(nn.Module):
    """Layer normalisation with a scale and a bias per member, both (num_members, 1, width)."""

    def __init__(self, num_members: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(num_members, 1, width))
        self.bias = nn.Parameter(torch.zeros(num_members, 1, width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalise the last axis of (num_members, batch, width)."""
        return F.layer_norm(x, x.shape[-1:], eps=NORM_EPS) * self.weight + self.bias


class Perceptron(nn.Module):
    """Hidden layers with an activation, then an affine output layer.

    Args:
        in_features: Width of the input.
        hidden_dims: Widths of the hidden layers.
        out_features: Width of the output.
        num_members: Perceptrons side by side, each with its own weights; None for a single one without a member axis.
        activation: After each hidden layer.
        init: How the weights start; each member is drawn for itself.
        layer_norm: Normalise the output of each activation.
        hidden_dtype: Precision of the hidden layers' products; activations' normalisation and the output layer are float32.
    """

    def __init__(
        self,
        in_features: int,
        hidden_dims: Sequence[int],
        out_features: int,
        num_members: int | None = None,
        activation: Activation = "relu",
        init: Initialization = TORCH,
        layer_norm: bool = False,
        hidden_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.num_members = num_members
        self.hidden_dims = list(hidden_dims)
        self.hidden_dtype = hidden_dtype
        self.activation = ACTIVATIONS[activation]
        widths = [in_features, *hidden_dims]
        self.hidden = nn.ModuleList(_linear(num_members, a, b, init.hidden) for a, b in pairwise(widths))
        self.norms = nn.ModuleList(_norm(num_members, b) for b in hidden_dims) if layer_norm else None
        self.output = _linear(num_members, widths[-1], out_features, init.output)

    def forward(self, x: Tensor, kept: Sequence[Tensor] = ()) -> Tensor:
        """Return the output.

        Args:
            x: Inputs, shape (batch, in_features), the same for all members.
            kept: Factors of each hidden layer's outputs, shapes (batch, hidden_dim), for dropout; none when empty.

        Returns:
            Shape (batch, out_features), float32; with members (num_members, batch, out_features).
        """
        x = x.to(self.hidden_dtype)
        if self.num_members is not None:
            x = x.expand(self.num_members, -1, -1)
        for index, layer in enumerate(self.hidden):
            x = self.activation(layer(x))
            if self.norms is not None:
                x = self.norms[index](x.float()).to(self.hidden_dtype)
            if kept:
                x = x * kept[index].to(x.dtype)
        output: Tensor = self.output(x.float())
        return output


class StackedCritics(nn.Module):
    """Critics Q^m(s, a), two in most methods, evaluated as one batched product with the critics' axis first.

    Args:
        observation_dim: Width of an observation.
        action_dim: Width of an action.
        hidden_dims: Widths of the hidden layers.
        num_critics: Number of critics.
        activation: See :class:`Perceptron`.
        init: See :class:`Perceptron`.
        layer_norm: See :class:`Perceptron`.
        hidden_dtype: See :class:`Perceptron`.
    """

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        hidden_dims: Sequence[int],
        num_critics: int = 2,
        activation: Activation = "relu",
        init: Initialization = TORCH,
        layer_norm: bool = False,
        hidden_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.num_critics = num_critics
        width = observation_dim + action_dim
        self.body = Perceptron(width, hidden_dims, 1, num_critics, activation, init, layer_norm, hidden_dtype)

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        """Return Q-values (num_critics, batch), float32, of (batch, observation_dim) and (batch, action_dim)."""
        values: Tensor = self.body(torch.cat([observation, action], dim=-1)).squeeze(-1)
        return values


def _linear(num_members: int | None, in_features: int, out_features: int, initialize: Initialize) -> nn.Module:
    if num_members is None:
        single = CastLinear(in_features, out_features)
        initialize(single.weight, single.bias)
        return single
    several = EnsembleLinear(num_members, in_features, out_features, bias_init=0.0)
    initialize_members(several, initialize)
    return several


def _norm(num_members: int | None, width: int) -> nn.Module:
    return nn.LayerNorm(width, eps=NORM_EPS) if num_members is None else MemberNorm(num_members, width)
