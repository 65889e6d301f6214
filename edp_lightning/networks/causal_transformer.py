"""A transformer in which a token sees itself and the tokens before it (arXiv 1706.03762), normalised before each part."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from edp_lightning.networks.perceptron import CastLinear

INIT_STD = 0.02
"""Spread of initial weights (GPT-2)."""


class KeptInBlock(NamedTuple):
    """What dropout keeps in one block, booleans; None where it keeps all.

    Attributes:
        weights: Of the attention's weights, shape (batch, num_heads, tokens, tokens).
        attended: Of the attention's output, shape (batch, tokens, width).
        transformed: Of the perceptron's output, shape (batch, tokens, width).
    """

    weights: Tensor | None = None
    attended: Tensor | None = None
    transformed: Tensor | None = None


def drop(x: Tensor, kept: Tensor | None, probability: float) -> Tensor:
    """Return ``x`` with zeros where it is not kept, the rest divided by 1 - ``probability``."""
    return x if kept is None else torch.where(kept, x / (1 - probability), 0.0)


def attend(query: Tensor, key: Tensor, value: Tensor, kept: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """Return causal attention, all of shape (batch, heads, tokens, width of a head).

    ``scaled_dot_product_attention`` draws its dropout itself; where it must be given, the weights are written out.

    Args:
        query: Queries.
        key: Keys.
        value: Values.
        kept: Which weights dropout keeps, shape (batch, heads, tokens, tokens); all when not given.
        dropout: Probability with which it drops them.
    """
    if kept is None:
        return F.scaled_dot_product_attention(query, key, value, is_causal=True)
    tokens = query.shape[-2]
    seen = torch.ones(tokens, tokens, dtype=torch.bool, device=query.device).tril()
    scores = query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1])
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    return drop(weights, kept, dropout) @ value


class Block(nn.Module):
    """Attention, then a perceptron four times as wide, each on normalised tokens and added to them.

    Args:
        width: Width of a token.
        num_heads: Heads of the attention; divides ``width``.
        activation: Of the perceptron: ``gelu`` (exact) or ``relu``.
        attention_dropout: Probability that a weight of the attention is dropped.
        residual_dropout: Probability that a number of either output is dropped.
        hidden_dtype: Precision of the products; sums and normalisation are float32.
    """

    def __init__(
        self,
        width: int,
        num_heads: int,
        activation: str,
        attention_dropout: float,
        residual_dropout: float,
        hidden_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.activation = F.gelu if activation == "gelu" else F.relu
        self.attention_dropout = attention_dropout
        self.residual_dropout = residual_dropout
        self.hidden_dtype = hidden_dtype
        self.norm_attention, self.norm_perceptron = nn.LayerNorm(width), nn.LayerNorm(width)
        self.projections = CastLinear(width, 3 * width)
        self.attention_output = CastLinear(width, width)
        self.hidden = CastLinear(width, 4 * width)
        self.output = CastLinear(4 * width, width)

    def forward(self, x: Tensor, kept: KeptInBlock) -> Tensor:
        """Map tokens (batch, tokens, width) to tokens."""
        heads = self.projections(self.norm_attention(x).to(self.hidden_dtype)).unflatten(-1, (3, self.num_heads, -1))
        query, key, value = heads.permute(2, 0, 3, 1, 4)
        attended = attend(query, key, value, kept.weights, self.attention_dropout).transpose(1, 2).flatten(2)
        x = x + drop(self.attention_output(attended).float(), kept.attended, self.residual_dropout)
        hidden = self.activation(self.hidden(self.norm_perceptron(x).to(self.hidden_dtype)))
        return x + drop(self.output(hidden).float(), kept.transformed, self.residual_dropout)


class CausalTransformer(nn.Module):
    """Blocks one after the other, and a normalisation at the end.

    Args:
        width: Width of a token.
        num_layers: Blocks.
        num_heads: See :class:`Block`.
        activation: See :class:`Block`.
        attention_dropout: See :class:`Block`.
        residual_dropout: See :class:`Block`.
        hidden_dtype: See :class:`Block`.
    """

    def __init__(
        self,
        width: int,
        num_layers: int,
        num_heads: int,
        activation: str = "gelu",
        attention_dropout: float = 0.0,
        residual_dropout: float = 0.0,
        hidden_dtype: torch.dtype = torch.float32,
    ) -> None:
        super().__init__()
        options = width, num_heads, activation, attention_dropout, residual_dropout, hidden_dtype
        self.blocks = nn.ModuleList(Block(*options) for _ in range(num_layers))
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Tensor, kept: Sequence[KeptInBlock] = ()) -> Tensor:
        """Map tokens (batch, tokens, width) to tokens, float32.

        Args:
            x: Tokens in order.
            kept: What dropout keeps in each block; all when empty.
        """
        for number, block in enumerate(self.blocks):
            x = block(x, kept[number] if kept else KeptInBlock())
        result: Tensor = self.norm(x)
        return result


def initialize(module: nn.Module) -> None:
    """Draw weights of affine layers and embeddings from N(0, 0.02^2), set biases to 0; for ``nn.Module.apply``."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=INIT_STD)
    if isinstance(module, nn.Linear):
        nn.init.zeros_(module.bias)
