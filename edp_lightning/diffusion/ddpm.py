"""Denoising diffusion (arXiv 2006.11239): the process whose step t adds noise of variance beta_t."""

from typing import Literal

import torch
from torch import Tensor

from edp_lightning.diffusion.process import DiffusionProcess, Gaussian
from edp_lightning.diffusion.schedule import vp_betas

BetaSchedule = Literal["vp", "linear"]
StepVariance = Literal["posterior", "beta"]


def linear_betas(num_steps: int) -> Tensor:
    """Return betas from 1e-4 to 2e-2, scaled by 1000 / T: shape (num_steps,), float64 (Efficient Diffusion Policy's code).

    Raises:
        ValueError: If the last one would be 1 or more.
    """
    if num_steps <= 20:
        raise ValueError(
            f"the linear betas reach 20 / num_diffusion_steps, so there must be more than 20 steps; got {num_steps}"
        )
    return torch.linspace(1e-4, 2e-2, num_steps, dtype=torch.float64, device="cpu") * (1000 / num_steps)


class DDPM(DiffusionProcess):
    """The process with ``abar_t = prod_s (1 - beta_s)``: a^t has mean sqrt(abar_t) a^0 and variance 1 - abar_t.

    Args:
        num_steps: Number of diffusion steps T.
        betas: ``vp``: the discretised variance-preserving SDE (Diffusion-QL, IDQL), or ``linear``.
        variance: Variance of the sampling chain's steps: that of the ``posterior`` q(a^{t-1} | a^t, a^0), or ``beta`` (IDQL),
            which is larger.
    """

    reverse_variance: Tensor

    def __init__(self, num_steps: int = 5, betas: BetaSchedule = "vp", variance: StepVariance = "posterior") -> None:
        beta = vp_betas(num_steps) if betas == "vp" else linear_betas(num_steps)
        super().__init__(-0.5 * torch.log1p(-beta))
        table = torch.cat([beta.new_zeros(1), beta]).float().to(torch.get_default_device())
        table = self.posterior_std.square() if variance == "posterior" else table
        self.register_buffer("reverse_variance", table, persistent=False)

    def reverse_step(self, noisy: Tensor, t: Tensor, clean: Tensor) -> Gaussian:
        """Return the law of a^{t-1} in the sampling chain, given the prediction ``clean`` of a^0."""
        return Gaussian(self.posterior(noisy, t, clean).mean, self.reverse_variance[t].unsqueeze(-1))
