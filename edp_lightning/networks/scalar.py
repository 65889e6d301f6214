"""One trained number, as a module, so that an optimizer of its own can train it."""

import torch
from torch import Tensor, nn


class Scalar(nn.Module):
    """A trained number.

    Args:
        initial: Its value at the start.
    """

    def __init__(self, initial: float) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.tensor(float(initial)))

    def forward(self) -> Tensor:
        """Return the number, shape ()."""
        return self.value
