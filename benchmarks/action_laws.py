"""Action laws whose entropy is known, for ``entropy.py``."""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Law(NamedTuple):
    """Equally likely Gaussians of one standard deviation around ``means`` (modes, action_dim), cut to [-1, 1]."""

    means: Tensor
    std: float

    def sample(self, rows: int) -> Tensor:
        """Draw actions (rows, action_dim)."""
        kept = torch.empty(0, self.means.shape[1])
        while len(kept) < rows:
            centre = self.means[torch.randint(len(self.means), (2 * rows,))]
            drawn = centre + self.std * torch.randn_like(centre)
            kept = torch.cat([kept, drawn[(drawn.abs() <= 1).all(1)]])
        return kept[:rows]

    def entropy(self, rows: int = 40_000) -> float:
        """Return the differential entropy in nats: -E log p by Monte Carlo with the exact density."""
        centre = self.means[torch.randint(len(self.means), (rows,))]
        drawn = centre + self.std * torch.randn_like(centre)
        inside = (drawn.abs() <= 1).all(1)
        log_mass = inside.float().mean().log().item()
        return -self._log_density(drawn[inside]).mean().item() + log_mass

    def _log_density(self, action: Tensor) -> Tensor:
        squared = torch.cdist(action, self.means).square()
        dim = self.means.shape[1]
        log_normal = -squared / (2 * self.std**2) - dim * math.log(self.std * math.sqrt(2 * math.pi))
        return torch.logsumexp(log_normal, dim=1) - math.log(len(self.means))


def laws(action_dim: int) -> list[Law]:
    """Return 18 laws of this dimension: six Gaussians, twelve mixtures."""
    gaussians = ((0.0, 0.03), (0.3, 0.1), (-0.4, 0.16), (0.0, 0.24), (0.2, 0.32), (0.0, 0.4))
    mixtures = ((2, 0.03, 0.2), (2, 0.1, 0.35), (2, 0.04, 0.5), (2, 0.1, 0.7), (2, 0.03, 0.85), (3, 0.08, 0.4), (3, 0.05, 0.75))
    found = [Law(torch.full((1, action_dim), centre), std) for centre, std in gaussians]
    for modes, std, reach in (*mixtures, (4, 0.05, 0.6), (4, 0.03, 0.9), (5, 0.06, 0.3), (6, 0.1, 0.8), (8, 0.03, 0.9)):
        if action_dim == 1:
            means = torch.linspace(-reach, reach, modes).unsqueeze(1)
        else:  # on a circle: the modes keep their distance
            angle = 2 * math.pi * torch.arange(modes) / modes + modes
            means = reach * torch.stack([angle.cos(), angle.sin()], dim=1)
        found.append(Law(means, std))
    return found
