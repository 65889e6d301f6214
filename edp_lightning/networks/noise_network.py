"""The actor's network: predicts the noise in a noisy action."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edp_lightning.networks.initialization import Initialization
from edp_lightning.networks.mish import mish

TIME_FEATURES = 16

PredictNoise = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(noisy actions (batch, action_dim), their one time (1,), observations) -> noise estimates, as ``NoiseNetwork.forward``."""


class TimeEmbedding(nn.Module):
    """Sinusoidal features of the diffusion time through a two-layer perceptron (arXiv 1706.03762, section 3.5).

    Args:
        features: Number of sinusoidal features and of outputs, even.
        inclusive: Whether the slowest frequency is 1 / 10000; otherwise it is the last but one of a series that ends there.
    """

    frequencies: Tensor

    def __init__(self, features: int = TIME_FEATURES, inclusive: bool = True) -> None:
        super().__init__()
        half = features // 2
        spread = half - 1 if inclusive else half
        frequencies = torch.exp(-math.log(10000) / spread * torch.arange(half, device="cpu"))  # the same on every device
        self.register_buffer("frequencies", frequencies.to(torch.get_default_device()), persistent=False)
        self.hidden = nn.Linear(features, 2 * features)
        self.output = nn.Linear(2 * features, features)

    def forward(self, t: Tensor) -> Tensor:
        """Embed times t = 1..T, shape (batch,), as (batch, features). Time 1 gets the features of index 0."""
        angles = (t - 1).unsqueeze(-1) * self.frequencies
        sinusoids = torch.cat([angles.sin(), angles.cos()], dim=-1)
        embedded: Tensor = self.output(mish(self.hidden(sinusoids)))
        return embedded


class NoiseNetwork(nn.Module):
    """Predicts the noise in a noisy action: concat(a^t, time embedding, observation) -> hidden layers (Mish) -> action.

    Args:
        observation_dim: Width of an observation.
        action_dim: Width of an action.
        hidden_dims: Widths of the hidden layers.
        hidden_dtype: Precision of the hidden layers' products; the output layer is always float32.
        inclusive_frequencies: See :class:`TimeEmbedding`.
        init: How all layers start; as PyTorch's when not given.
    """

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        hidden_dims: Sequence[int] = (256, 256, 256),
        hidden_dtype: torch.dtype = torch.float32,
        inclusive_frequencies: bool = True,
        init: Initialization | None = None,
    ) -> None:
        super().__init__()
        self.hidden_dtype = hidden_dtype
        self.time_embedding = TimeEmbedding(inclusive=inclusive_frequencies)
        widths = [action_dim + TIME_FEATURES + observation_dim, *hidden_dims]
        self.hidden = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(widths))
        self.output = nn.Linear(widths[-1], action_dim)
        if init is not None:
            for layer in [*self.hidden, self.time_embedding.hidden]:
                init.hidden(layer.weight.detach(), layer.bias.detach())
            for layer in [self.output, self.time_embedding.output]:
                init.output(layer.weight.detach(), layer.bias.detach())

    def forward(self, noisy: Tensor, t: Tensor, observation: Tensor) -> Tensor:
        """Return the predicted noise.

        Args:
            noisy: Noisy actions a^t, shape (batch, action_dim).
            t: Diffusion times 1..T, long, shape (batch,); or (1,), one for all rows.
            observation: Observations, shape (batch, observation_dim).

        Returns:
            Noise estimates, shape (batch, action_dim), float32.
        """
        x = self.inputs(noisy, t, observation).to(self.hidden_dtype)
        for layer in self.hidden:
            assert isinstance(layer, nn.Linear)
            x = mish(F.linear(x, layer.weight.to(x.dtype), layer.bias.to(x.dtype)))
        predicted: Tensor = self.output(x.float())
        return predicted

    def inputs(self, noisy: Tensor, t: Tensor, observation: Tensor) -> Tensor:
        """Return what the first hidden layer sees, float32; arguments as of ``forward``."""
        return torch.cat([noisy, self.time_embedding(t).expand(len(noisy), -1), observation], dim=-1)
