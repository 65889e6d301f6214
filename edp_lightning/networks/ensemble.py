"""Critics evaluated as one batched matmul per layer, and the pessimistic value of several."""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edp_lightning.networks.initialization import Initialization, Initialize
from edp_lightning.networks.mish import mish

QAggregation = Literal["lcb", "min"]
CriticActivation = Literal["mish", "relu"]
CriticNorm = Literal["none", "layer"]

ACTIVATIONS: dict[CriticActivation, Callable[[Tensor], Tensor]] = {"mish": mish, "relu": F.relu}


NORM_EPSILON = 1e-5
"""Added to the variance over a layer's units, as in PyTorch's LayerNorm."""


class EnsembleLinear(nn.Module):
    """``num_members`` independent affine layers in one batched matmul.

    Weight (num_members, in, out), bias (num_members, 1, out). Weights are drawn from U(-1/sqrt(in), 1/sqrt(in)) per member.
    """

    def __init__(self, num_members: int, in_features: int, out_features: int, bias_init: float) -> None:
        super().__init__()
        bound = 1 / math.sqrt(in_features)
        self.weight = nn.Parameter(torch.empty(num_members, in_features, out_features).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.full((num_members, 1, out_features), bias_init))

    def forward(self, x: Tensor) -> Tensor:
        """Map (num_members, batch, in) to (num_members, batch, out), computed in the dtype of ``x``."""
        return torch.baddbmm(self.bias.to(x.dtype), x, self.weight.to(x.dtype))

    def normalized(self, x: Tensor) -> Tensor:
        """Map as :meth:`forward`, the products normalised over the units before the bias is added, float32."""
        return normalize_units(torch.bmm(x, self.weight.to(x.dtype)))[0] + self.bias


class QEnsemble(nn.Module):
    """M independent critics Q^m(s, a) with the ensemble axis first.

    Unless told otherwise, hidden biases start at 0.1 and the last layer at U(-3e-3, 3e-3), as in the released code of arXiv
    2402.04080.

    Args:
        observation_dim: Width of an observation.
        action_dim: Width of an action.
        num_critics: Number of critics M.
        hidden_dims: Widths of the hidden layers.
        hidden_dtype: Precision of the hidden layers' products. The output layer is always float32: with values in the
            hundreds, bfloat16 outputs would be coarser than the spread between critics that the LCB is made of.
        activation: After each hidden layer.
        init: How every critic starts, each drawn for itself.
        norm: ``layer`` normalises what enters each hidden activation over its units (arXiv 1607.06450), without a gain; the
            layer's own bias is added afterwards. It bounds a critic's values far from the data (arXiv 2302.02948, section 4.2).
    """

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        num_critics: int = 64,
        hidden_dims: Sequence[int] = (256, 256, 256),
        hidden_dtype: torch.dtype = torch.float32,
        activation: CriticActivation = "mish",
        init: Initialization | None = None,
        norm: CriticNorm = "none",
    ) -> None:
        super().__init__()
        self.num_critics = num_critics
        self.norm: CriticNorm = norm
        self.hidden_dtype = hidden_dtype
        self.activation: CriticActivation = activation
        widths = [observation_dim + action_dim, *hidden_dims]
        self.hidden = nn.ModuleList(EnsembleLinear(num_critics, a, b, bias_init=0.1) for a, b in pairwise(widths))
        self.output = EnsembleLinear(num_critics, widths[-1], 1, bias_init=0.0)
        nn.init.uniform_(self.output.weight, -3e-3, 3e-3)
        nn.init.uniform_(self.output.bias, -3e-3, 3e-3)
        if init is not None:
            for layer in self.hidden:
                initialize_members(layer, init.hidden)
            initialize_members(self.output, init.output)

    def forward(self, observation: Tensor, action: Tensor) -> Tensor:
        """Return Q-values.

        Args:
            observation: Observations, shape (batch, observation_dim).
            action: Actions in [-1, 1], shape (batch, action_dim).

        Returns:
            Q-values, shape (num_critics, batch), float32.
        """
        return self.of_inputs(torch.cat([observation, action], dim=-1))

    def of_inputs(self, inputs: Tensor) -> Tensor:
        """Return Q-values (num_critics, batch) of what the critics see: observation, then action.

        Args:
            inputs: The same for all critics (batch, observation_dim + action_dim), or each its own (num_critics, batch, ...).
        """
        activate = ACTIVATIONS[self.activation]
        x = inputs.to(self.hidden_dtype).expand(self.num_critics, -1, -1)  # without a copy
        for layer in self.hidden:
            assert isinstance(layer, EnsembleLinear)
            x = activate(layer(x) if self.norm == "none" else layer.normalized(x)).to(self.hidden_dtype)
        values: Tensor = self.output(x.float()).squeeze(-1)
        return values


def normalize_units(products: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return ``products`` (..., units) normalised over the units, with the mean and inverse deviation used, all float32."""
    return torch.native_layer_norm(products.float(), products.shape[-1:], None, None, NORM_EPSILON)


def initialize_members(layer: nn.Module, initialize: Initialize) -> None:
    """Start every member of an :class:`EnsembleLinear` by itself."""
    assert isinstance(layer, EnsembleLinear)
    for weight, bias in zip(layer.weight.detach(), layer.bias.detach(), strict=True):
        initialize(weight.T, bias.squeeze(0))


def aggregate_q(q: Tensor, aggregation: QAggregation, lcb_coef: float) -> Tensor:
    """Return one pessimistic value per row (or per row and action).

    Args:
        q: Q-values, shape (num_critics, ...), the critics of one row along the first axis.
        aggregation: ``lcb``: mean - lcb_coef * unbiased std over the critics (arXiv 2402.04080, eq. 12); ``min``: the minimum
            (clipped double Q-learning, arXiv 1802.09477).
        lcb_coef: beta of the paper; unused by ``min``.

    Returns:
        Values, shape (...).
    """
    if aggregation == "min":
        return q.amin(dim=0)
    std, mean = torch.std_mean(q, dim=0)  # unbiased
    return mean - lcb_coef * std
