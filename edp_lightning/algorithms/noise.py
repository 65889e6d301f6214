"""Every random number of one gradient step, drawn up front from (seed, step) and handed to the losses as tensors.

All ranks draw the noise of the *global* batch and keep their rows, so N ranks with B rows compute what one process with N*B
rows computes, and a resumed run repeats the draws of any step from its number alone.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from edp_lightning.runs.rng import stream_seed


class RowNoise:
    """Draws for the rows of a batch: those of the global batch are drawn, those of this rank's rows are kept.

    Args:
        generator: Seeded for the gradient step, the same on every rank.
        rank: This rank.
        world_size: Number of ranks.
    """

    def __init__(self, generator: torch.Generator, rank: int = 0, world_size: int = 1) -> None:
        self.generator = generator
        self.rank = rank
        self.world_size = world_size

    def normal(self, *shape: int, rows: int = 0) -> Tensor:
        """Return standard normal draws of ``shape``, whose axis ``rows`` counts rows of this rank's batch."""
        return self._mine(torch.randn, shape, rows)

    def uniform(self, *shape: int, rows: int = 0) -> Tensor:
        """Return draws from U(0, 1) of ``shape``, whose axis ``rows`` counts rows of this rank's batch."""
        return self._mine(torch.rand, shape, rows)

    def integers(self, low: int, high: int, *shape: int, rows: int = 0) -> Tensor:
        """Return integers from ``low`` to ``high - 1`` of ``shape``, whose axis ``rows`` counts rows of this rank's batch."""
        return self._mine(partial(torch.randint, low, high), shape, rows)

    def shared_integer(self, high: int) -> Tensor:
        """Return one integer from 0 to ``high - 1`` for the whole batch, the same on every rank, shape ()."""
        return torch.randint(high, (), generator=self.generator, device=self.generator.device)

    def dropout(self, rows: int, widths: Sequence[int], probability: float) -> list[Tensor]:
        """Return factors of hidden layers' outputs, (rows, width) each: 0 with ``probability``, else 1 / (1 - probability).

        Drawn here rather than by ``nn.Dropout``, they are the same after a resume and for any number of ranks. Empty if nothing
        is dropped.
        """
        if probability == 0:
            return []
        return [(self.uniform(rows, width) >= probability).float() / (1 - probability) for width in widths]

    def kept(self, *shape: int, probability: float) -> Tensor | None:
        """Return which numbers of ``shape``, rows first, dropout keeps: False with ``probability``. None if it keeps all."""
        return None if probability == 0 else self.uniform(*shape) >= probability

    def _mine(self, draw: Callable[..., Tensor], shape: tuple[int, ...], rows: int) -> Tensor:
        every = (*shape[:rows], shape[rows] * self.world_size, *shape[rows + 1 :])
        drawn = draw(every, generator=self.generator, device=self.generator.device)
        return drawn[(slice(None),) * rows + (slice(self.rank, None, self.world_size),)]


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
        noise = RowNoise(self.generator.manual_seed(stream_seed(self.seed, "noise", step)), rank, world_size)
        width, chain = self.action_dim, self.chain_draws
        next_action = noise.normal(chain, batch_size, self.num_backup_actions, width, rows=1).reshape(chain, -1, width)
        time = noise.integers(1, self.num_diffusion_steps + 1, batch_size)
        action = noise.normal(batch_size, width)
        states = batch_size if self.entropy_states is None else min(self.entropy_states, batch_size)
        return StepNoise(next_action, time, action, noise.normal(self.entropy_draws, states, width, rows=1))
