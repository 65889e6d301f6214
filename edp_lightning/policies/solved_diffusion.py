"""A diffusion policy whose actions are drawn by solving a differential equation instead of running the chain."""

from torch import Tensor, nn

from edp_lightning.diffusion import DiffusionProcess
from edp_lightning.diffusion.dpm_solver import solve
from edp_lightning.networks.noise_network import PredictNoise
from edp_lightning.policies.diffusion import DiffusionPolicy


class SolvedDiffusionPolicy(DiffusionPolicy):
    """Draws actions with DPM-Solver: one draw of noise, then ``passes`` passes through the network, however large T is.

    Args:
        network: Predicts the noise of noisy actions.
        sde: The diffusion.
        passes: Passes through the network.
    """

    def __init__(self, network: nn.Module, sde: DiffusionProcess, passes: int = 15) -> None:
        super().__init__(network, sde, clip_start=True)
        self.passes = passes

    @property
    def num_draws(self) -> int:
        """Noise draws per action."""
        return 1

    def sample(self, observation: Tensor, noise: Tensor, predict_noise: PredictNoise | None = None) -> Tensor:
        """Draw actions in [-1, 1] from standard normal ``noise`` (1, batch, action_dim); arguments as of the base."""
        predict = predict_noise or self.network
        solved = solve(self.sde, lambda noisy, t: predict(noisy, t, observation), noise[0], self.passes)
        return solved.clamp(-1.0, 1.0)
