"""How far one-step predictions are off, measured while training: what the sampling chain needs to be as wide as the data."""

import torch
from torch import Tensor, nn


def squared_error_sums(clean: Tensor, action: Tensor, t: Tensor, num_steps: int, weights: Tensor | None = None) -> Tensor:
    """Return, for each diffusion time 0..T, sums of (a0hat - a0)^2 per action dimension and, last, the number of rows.

    All are divided by the batch: their mean over ranks is what one process with all rows computes.

    Args:
        clean: One-step predictions a0hat, shape (batch, action_dim).
        action: Actions a0, shape (batch, action_dim).
        t: Diffusion times, long, shape (batch,).
        num_steps: T.
        weights: What each row counts for, shape (batch,); None for equal ones.

    Returns:
        Shape (num_steps + 1, action_dim + 1).
    """
    rows = torch.cat([(clean - action).square(), torch.ones_like(clean[:, :1])], dim=1)
    if weights is not None:
        rows = weights[:, None] * rows
    return rows.new_zeros(num_steps + 1, rows.shape[1]).index_add(0, t, rows / len(rows))


class PredictionError(nn.Module):
    """Running estimate of E[(a0 - a0hat)^2], by diffusion time and action dimension: the mean of Var(a0 | a^t, s).

    Args:
        num_steps: Number of diffusion steps T.
        action_dim: Width of an action.
        decay: Weight that a gradient step leaves to the earlier ones.
    """

    sums: Tensor

    def __init__(self, num_steps: int, action_dim: int, decay: float = 0.999) -> None:
        super().__init__()
        self.decay = decay
        self.register_buffer("sums", torch.zeros(num_steps + 1, action_dim + 1))

    @torch.no_grad()
    def update(self, sums: Tensor) -> None:
        """Add the sums of one gradient step, (num_steps + 1, action_dim + 1); see ``squared_error_sums``."""
        self.sums.mul_(self.decay).add_(sums)

    def forward(self) -> Tensor:
        """Return the estimate, shape (num_steps + 1, action_dim); 0 for times that were never seen."""
        return self.sums[:, :-1] / self.sums[:, -1:].clamp(min=1e-6)
