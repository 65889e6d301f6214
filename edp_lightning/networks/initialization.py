"""How the weights of plain perceptrons start, named by where the choice comes from."""

import math
from collections.abc import Callable
from functools import partial
from typing import Literal, NamedTuple

from torch import Tensor, nn

Initialize = Callable[[Tensor, Tensor], object]
"""Fills a weight (out, in) and a bias (out,) in place."""


def uniform_by_inputs(weight: Tensor, bias: Tensor, bias_value: float | None = None) -> None:
    """Draw weights from U(-1/sqrt(in), 1/sqrt(in)), biases too or set them to ``bias_value``: PyTorch's own choice."""
    bound = 1 / math.sqrt(weight.shape[1])
    nn.init.uniform_(weight, -bound, bound)
    if bias_value is None:
        nn.init.uniform_(bias, -bound, bound)
    else:
        nn.init.constant_(bias, bias_value)


def uniform(weight: Tensor, bias: Tensor, bound: float) -> None:
    """Draw weights and biases from U(-bound, bound)."""
    nn.init.uniform_(weight, -bound, bound)
    nn.init.uniform_(bias, -bound, bound)


def orthogonal(weight: Tensor, bias: Tensor, gain: float) -> None:
    """Set the weight to ``gain`` times a random orthogonal matrix (arXiv 1312.6120), the bias to 0."""
    nn.init.orthogonal_(weight, gain)
    nn.init.zeros_(bias)


def xavier_uniform(weight: Tensor, bias: Tensor, gain: float = 1.0) -> None:
    """Draw weights from U(-b, b) with b = gain sqrt(6 / (in + out)) (Glorot and Bengio 2010), set the bias to 0."""
    nn.init.xavier_uniform_(weight, gain)
    nn.init.zeros_(bias)


def variance_scaling(weight: Tensor, bias: Tensor, mode: Literal["in", "average"]) -> None:
    """Draw weights from a normal law cut off at two of its standard deviations, with variance 1 / inputs or 1 / average.

    The average is that of inputs and outputs; the bias is set to 0. Flax and Haiku mean these by ``lecun_normal`` and by
    ``VarianceScaling(1, "fan_avg", "truncated_normal")``.
    """
    outputs, inputs = weight.shape
    count = inputs if mode == "in" else (inputs + outputs) / 2
    std = 1 / math.sqrt(count) / TRUNCATED_STD
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
    nn.init.zeros_(bias)


TRUNCATED_STD = 0.87962566103423978
"""Standard deviation of a standard normal number that is known to lie within -2 and 2."""


class Initialization(NamedTuple):
    """How a perceptron starts.

    Attributes:
        hidden: Fills the hidden layers.
        output: Fills the output layer.
    """

    hidden: Initialize
    output: Initialize


TORCH = Initialization(uniform_by_inputs, uniform_by_inputs)
"""What ``nn.Linear`` starts with."""

ORTHOGONAL = Initialization(partial(orthogonal, gain=math.sqrt(2)), partial(orthogonal, gain=math.sqrt(2)))
"""All layers orthogonal with gain sqrt 2, the outputs too (implicit_q_learning, IQL)."""

SMALL_OUTPUT = Initialization(uniform_by_inputs, partial(xavier_uniform, gain=1e-2))
"""PyTorch's choice with a small output layer (CORL, CQL's actor)."""

ORTHOGONAL_SMALL_OUTPUT = Initialization(partial(orthogonal, gain=math.sqrt(2)), partial(orthogonal, gain=1e-2))
"""Orthogonal with a small output layer (CORL, CQL's critics)."""

XAVIER = Initialization(xavier_uniform, xavier_uniform)
"""Uniform with the average of inputs and outputs, biases 0 (FQL, IDQL)."""

LECUN = Initialization(partial(variance_scaling, mode="in"), partial(variance_scaling, mode="in"))
"""What Flax's ``Dense`` starts with (Efficient Diffusion Policy)."""

TRUNCATED = Initialization(partial(variance_scaling, mode="average"), partial(variance_scaling, mode="average"))
"""Truncated normal with the average of inputs and outputs, biases 0 (MSG)."""


def small_uniform_output(bound: float) -> Initialization:
    """Return hidden layers as PyTorch's with biases 0.1, the output layer from U(-bound, bound) (EDAC, ReBRAC)."""
    return Initialization(partial(uniform_by_inputs, bias_value=0.1), partial(uniform, bound=bound))
