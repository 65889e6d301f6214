"""IDQL's noise network: learned Fourier features of the time, and residual blocks with layer normalisation."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edp_lightning.networks.initialization import LECUN, XAVIER
from edp_lightning.networks.mish import mish
from edp_lightning.networks.perceptron import NORM_EPS, CastLinear

SmoothActivation = Literal["swish", "mish"]

SMOOTH_ACTIVATIONS: dict[SmoothActivation, Callable[[Tensor], Tensor]] = {"swish": F.silu, "mish": mish}


class FourierTime(nn.Module):
    """cos and sin of 2 pi w (t - 1) with trained frequencies w ~ N(0, 0.2^2), through a perceptron.

    Args:
        features: Number of features, even.
        hidden_dims: Widths of the perceptron's layers; the last one is not activated.
        activation: Between them.
    """

    def __init__(self, features: int, hidden_dims: Sequence[int], activation: SmoothActivation) -> None:
        super().__init__()
        self.frequencies = nn.Parameter(torch.randn(features // 2) * 0.2)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise([features, *hidden_dims]))
        self.activation = SMOOTH_ACTIVATIONS[activation]
        for layer in self.layers:
            assert isinstance(layer, nn.Linear)
            XAVIER.hidden(layer.weight.detach(), layer.bias.detach())

    def forward(self, t: Tensor) -> Tensor:
        """Embed times t = 1..T, shape (batch,), as (batch, hidden_dims[-1]). Time 1 is the index 0."""
        angles = 2 * math.pi * (t - 1).unsqueeze(-1) * self.frequencies
        x = torch.cat([angles.cos(), angles.sin()], dim=-1)
        for index, layer in enumerate(self.layers):
            x = layer(x if index == 0 else self.activation(x))
        return x


class ResidualBlock(nn.Module):
    """x + linear(activation(linear(norm(dropout(x))))), four times as wide inside.

    Args:
        width: Width of x.
        activation: Between the two layers.
        hidden_dtype: Precision of the layers' products.
    """

    def __init__(self, width: int, activation: SmoothActivation, hidden_dtype: torch.dtype) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=NORM_EPS)
        self.wide, self.narrow = CastLinear(width, 4 * width), CastLinear(4 * width, width)
        self.activation = SMOOTH_ACTIVATIONS[activation]
        self.hidden_dtype = hidden_dtype
        for layer in (self.wide, self.narrow):
            LECUN.hidden(layer.weight.detach(), layer.bias.detach())

    def forward(self, x: Tensor, kept: Tensor | None = None) -> Tensor:
        """Return (batch, width) of (batch, width), both float32; ``kept`` are factors of the input, for dropout."""
        inner = self.norm(x if kept is None else x * kept).to(self.hidden_dtype)
        result: Tensor = x + self.narrow(self.activation(self.wide(inner))).float()
        return result


class ResidualNoiseNetwork(nn.Module):
    """Predicts the noise in a noisy action: concat(a^t, observation, time) -> linear -> residual blocks -> action (IDQL).

    Args:
        observation_dim: Width of an observation.
        action_dim: Width of an action.
        width: Width of the blocks.
        num_blocks: Number of blocks.
        time_features: Fourier features of the time, even.
        time_hidden_dims: Widths of the time's perceptron.
        activation: In blocks and time's perceptron.
        hidden_dtype: Precision of the blocks' products.
    """

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        width: int = 256,
        num_blocks: int = 3,
        time_features: int = 128,
        time_hidden_dims: Sequence[int] = (256, 256),
        activation: SmoothActivation = "swish",
        hidden_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.time = FourierTime(time_features, time_hidden_dims, activation)
        self.input = nn.Linear(action_dim + observation_dim + list(time_hidden_dims)[-1], width)
        self.blocks = nn.ModuleList(ResidualBlock(width, activation, hidden_dtype) for _ in range(num_blocks))
        self.output = nn.Linear(width, action_dim)
        self.activation = SMOOTH_ACTIVATIONS[activation]
        for layer in (self.input, self.output):
            XAVIER.hidden(layer.weight.detach(), layer.bias.detach())

    def forward(self, noisy: Tensor, t: Tensor, observation: Tensor, kept: Sequence[Tensor] = ()) -> Tensor:
        """Return the predicted noise (batch, action_dim), float32.

        Args:
            noisy: Noisy actions a^t, shape (batch, action_dim).
            t: Diffusion times 1..T, long, shape (batch,); or (1,), one for all rows.
            observation: Observations, shape (batch, observation_dim).
            kept: Factors of each block's input, shapes (batch, width), for dropout; none when empty.
        """
        x = self.input(torch.cat([noisy, observation, self.time(t).expand(len(noisy), -1)], dim=-1))
        for index, block in enumerate(self.blocks):
            x = block(x, kept[index] if kept else None)
        predicted: Tensor = self.output(self.activation(x))
        return predicted
