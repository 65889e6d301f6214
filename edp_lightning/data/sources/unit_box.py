"""Files of published benchmarks whose actions lie in [-1, 1] by agreement, not by anything stored."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


class UnitBoxFile:
    """What such sources share; the class gives ``path`` and ``action_dim``."""

    path: Path
    action_dim: int

    @property
    def action_low(self) -> Floats:
        """Return the lower bounds of the actions: -1."""
        return np.full(self.action_dim, -1.0, dtype=np.float32)

    @property
    def action_high(self) -> Floats:
        """Return the upper bounds of the actions: 1."""
        return np.full(self.action_dim, 1.0, dtype=np.float32)

    def check_actions(self, low: Floats, high: Floats) -> None:
        """Refuse nothing: some published actions overshoot the box, and the card says how many."""

    @property
    def files(self) -> tuple[Path, ...]:
        """Return the file."""
        return (self.path,)
