"""What callbacks may ask an algorithm, so that they need to know no attribute of it."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

QFunction = Callable[[Tensor, Tensor], Tensor]
"""(normalised observations (batch, observation_dim), actions in [-1, 1] (batch, action_dim)) -> (num_critics, batch)."""


@dataclass(frozen=True)
class Critics:
    """Critics that diagnostics may judge.

    Attributes:
        target: Q-values of the target critics.
        online: Q-values of the critics under training.
        pessimistic: Maps Q-values (num_critics, batch) to the value (batch,) that the policy is improved on.
    """

    target: QFunction
    online: QFunction
    pessimistic: Callable[[Tensor], Tensor]

    @classmethod
    def by_minimum(cls, target: QFunction, online: QFunction) -> "Critics":
        """Return critics of which the smallest value counts; arguments as of the class."""
        return cls(target, online, partial(torch.amin, dim=0))


@dataclass(frozen=True)
class TunableEntropy:
    """An entropy term whose coefficient ``EntropyCoefficientTuning`` may learn.

    Attributes:
        log_coef: Logarithm of the coefficient, a buffer of the algorithm, scalar.
        initial: Coefficient at the start of training.
        default_target: Returns the target in nats when none is given; once the networks are built.
        use_coefficient: Takes a function from normalised observations (states, observation_dim) to coefficients (states,),
            which from then on is used instead of the scalar; the scalar again with None.
    """

    log_coef: Tensor
    initial: float
    default_target: Callable[[], float]
    use_coefficient: Callable[[Callable[[Tensor], Tensor] | None], None]


class Follower(NamedTuple):
    """A network without gradients and the trained one that it follows.

    Attributes:
        target: The network that follows.
        source: The trained one.
        every: Of target networks: gradient steps between its moves, the first of which comes after step 0.
    """

    target: nn.Module
    source: nn.Module
    every: int = 1


def _nothing() -> dict[str, Tensor]:
    return {}


@dataclass(frozen=True)
class StepReport:
    """What a gradient step tells beside the losses and gradient norms of its updates.

    Attributes:
        metrics: Returns further scalars to log; called on log steps only.
        q: Q-values of this rank's batch, shape (num_critics, batch).
        entropy: Entropy estimates of this rank's first states, shape (entropy_states,).
    """

    metrics: Callable[[], dict[str, Tensor]] = field(default=_nothing)
    q: Tensor | None = None
    entropy: Tensor | None = None
