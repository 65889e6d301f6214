"""Every random number of one gradient step, drawn up front from (seed, step) and handed to the losses as tensors.

All ranks draw the noise of the *global* batch and keep their rows, so N ranks with B rows compute what one process with N*B
rows computes, and a resumed run repeats the draws of any step from its number alone.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from edp_lightning.runs.rng import stream_seed


class StepNoise(NamedTuple):
    """Noise of one gradient step; ``batch`` rows belong to this rank.

    Attributes:
        next_action: Draws of the sampling chain for a' ~ pi(.|s'), shape (chain_draws, batch * num_backup_actions,
            action_dim).
        time: Diffusion times of the actor's batch, U{1..T}, long, shape (batch,).
        action: Noise of the actor's batch, shape (batch, action_dim).
        entropy: Draws of the entropy estimator, shape (draws, states, action_dim), for the first ``states`` rows of the
            batch; ``draws`` may be 0.
    """

    next_action: Tensor
    time: Tensor
    action: Tensor
    entropy: Tensor


class NoiseSource:
    """Draws :class:`StepNoise` for any step.

    Args:
        seed: The run's seed.
        num_diffusion_steps: T.
        action_dim: Width of an action.
        num_backup_actions: Actions sampled per next state (1 without the max-Q backup).
        entropy_draws: Number of draws the entropy estimator needs per state.
        device: Where the noise is drawn and used.
        entropy_states: Rows of a rank's batch whose entropy is estimated, at most the batch; all when not given.
        chain_draws: Draws per action of the sampling chain; ``num_diffusion_steps`` when not given.
    """

    def __init__(
        self,
        seed: int,
        num_diffusion_steps: int,
        action_dim: int,
        num_backup_actions: int,
        entropy_draws: int,
        device: torch.device,
        entropy_states: int | None = None,
        chain_draws: int | None = None,
    ) -> None:
        self.seed = seed
        self.num_diffusion_steps = num_diffusion_steps
        self.chain_draws = chain_draws or num_diffusion_steps
        self.action_dim = action_dim
        self.num_backup_actions = num_backup_actions
        self.entropy_draws = entropy_draws
        self.entropy_states = entropy_states
        self.generator = torch.Generator(device)

    def draw(self, step: int, batch_size: int, rank: int = 0, world_size: int = 1) -> StepNoise:
        """Return the noise of gradient step ``step`` for this rank's ``batch_size`` rows."""
        generator = self.generator.manual_seed(stream_seed(self.seed, "noise", step))
        device = generator.device
        rows = batch_size * world_size
        mine = slice(rank, None, world_size)
        num_steps, width = self.num_diffusion_steps, self.action_dim

        def normal(*shape: int) -> Tensor:
            return torch.randn(*shape, generator=generator, device=device)

        next_action = normal(self.chain_draws, rows, self.num_backup_actions, width)[:, mine]
        time = torch.randint(1, num_steps + 1, (rows,), generator=generator, device=device)[mine]
        action = normal(rows, width)[mine]
        states = batch_size if self.entropy_states is None else min(self.entropy_states, batch_size)
        entropy = normal(self.entropy_draws, states * world_size, width)[:, mine]
        return StepNoise(next_action.reshape(self.chain_draws, -1, width), time, action, entropy)
