"""What a policy plays while it goes on learning."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from edp_lightning.errors import UserError


@dataclass(frozen=True)
class Exploration:
    """How the actions to play are found.

    Attributes:
        actions: ``act``, the decision that is also evaluated, or ``draw``, one plain draw of the policy.
        noise: Standard deviation of Gaussian noise on actions that fill [-1, 1].
    """

    actions: Literal["act", "draw"]
    noise: float

    @torch.no_grad()
    def choose(self, module: Any, observation: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Return the actions that are played, in the environment's units, shape (batch, action_dim).

        Args:
            module: The policy, an ``OfflineAlgorithm``.
            observation: What it sees, shape (batch, observation_dim).
            generators: One per row.

        Raises:
            UserError: If the policy has no plain draw.
        """
        if self.actions == "act":
            action: Tensor = module.act(observation, generators)
        else:
            rows = module.normalizer(observation.to(module.device)).split(1)
            action = module.action_scaler(torch.cat([_draw(module, row, g) for row, g in zip(rows, generators, strict=True)]))
        if self.noise:
            noise = torch.stack([torch.randn(action.shape[1], generator=generator) for generator in generators])
            action = module.action_scaler(module.action_scaler.inverse(action) + self.noise * noise.to(action.device))
        return action

    def is_certain(self, module: Any, observation: Tensor) -> bool:
        """Return whether chance has no part in the actions of these observations."""
        first, second = (
            self.choose(module, observation, [torch.Generator().manual_seed(seed + i) for i in range(len(observation))])
            for seed in (0, 1000)
        )
        return torch.equal(first, second)


@contextmanager
def acting(module: torch.nn.Module) -> Iterator[None]:
    """Switch off inside what networks do in training alone, such as dropout."""
    training = [part for part in module.modules() if part.training]
    for part in training:
        part.training = False
    try:
        yield
    finally:
        for part in training:
            part.training = True


def _draw(module: Any, observation: Tensor, generator: torch.Generator) -> Tensor:
    action: Tensor | None = module.draw_actions(observation, generator)
    if action is None:
        raise UserError(f"{type(module).__name__} has no plain draw of its policy: set online.actions to act")
    return action
