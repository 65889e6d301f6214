"""The only place where target networks and EMA weights change."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from edp_lightning.algorithms.inspection import Follower
from edp_lightning.data.datamodule import OfflineDataModule
from edp_lightning.errors import UserError
from edp_lightning.option_bounds import check_bounds


@torch.no_grad()
def move_towards(target: list[Tensor], source: list[Tensor], weight: float) -> None:
    """Set every tensor of ``target`` to ``(1 - weight) target + weight source`` in one call."""
    torch._foreach_lerp_(target, source, weight)


def parameters(followers: Sequence[Follower]) -> tuple[list[Tensor], list[Tensor]]:
    """Return the parameters of all targets, and those of what they follow."""
    targets: list[Tensor] = [p for follower in followers for p in follower.target.parameters()]
    return targets, [p for follower in followers for p in follower.source.parameters()]


def reach(steps: float, tau: float, n_step: int) -> float:
    """Return over how many environment steps values travel in so many gradient steps, about.

    A target network takes over a backup in 1 / tau gradient steps, and a backup spans ``n_step`` environment steps. Under a
    constant reward r, critics that follow their targets at once have the value r (1 - discount**reach) / (1 - discount).
    """
    return steps * tau * n_step


def horizon(longest_episode: float, discount: float) -> float:
    """Return over how many environment steps values should travel: beyond 3 / (1 - discount) lie 5 % of a constant reward's."""
    return min(longest_episode, 3 / (1 - discount) if discount < 1 else math.inf)


class TargetNetworkUpdate(L.Callback):
    """Moves target networks by Polyak averaging and EMA networks by exponential averaging, after each gradient step.

    The algorithm says which they are (``target_networks``, ``ema_networks``): here target critics and EMA actor.

    Args:
        tau: Polyak step of the target critics, every gradient step unless the algorithm says otherwise, in (0, 1].
        ema_decay: Decay of the EMA actor per update, in [0, 1).
        ema_every: Gradient steps between updates of the EMA actor.
        ema_start: First gradient step (counted from 0) at which the EMA actor may move.
        ema_before_start: What the EMA actor is until then: ``copy`` of the online actor, or ``frozen`` at its initial
            weights as in the released code of arXiv 2402.04080.
    """

    at_least: ClassVar[dict[str, float]] = {"ema_every": 1, "ema_start": 0}

    def __init__(
        self,
        tau: float = 0.005,
        ema_decay: float = 0.995,
        ema_every: int = 5,
        ema_start: int = 1000,
        ema_before_start: Literal["copy", "frozen"] = "copy",
    ) -> None:
        if not 0 < tau <= 1:
            raise UserError(f"target_update.tau must be in (0, 1]; got {tau}")
        if not 0 <= ema_decay < 1:
            raise UserError(f"target_update.ema_decay must be in [0, 1); got {ema_decay}")
        check_bounds("target_update", {"ema_every": ema_every, "ema_start": ema_start}, self)
        self.tau = tau
        self.ema_decay = ema_decay
        self.ema_every = ema_every
        self.ema_start = ema_start
        self.ema_before_start = ema_before_start
        self._polyak: dict[int, tuple[list[Tensor], list[Tensor]]] = {}
        self._ema: tuple[list[Tensor], list[Tensor]] = ([], [])

    def ema_weight(self, step: int) -> float:
        """Return how far the EMA actor moves towards the actor after gradient step ``step`` (counted from 0), in [0, 1]."""
        if step < self.ema_start:
            return 1.0 if self.ema_before_start == "copy" else 0.0
        return 1 - self.ema_decay if step % self.ema_every == 0 else 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Collect the parameters once, as walking four networks takes longer than moving small ones; say if a run is short."""
        module: Any = pl_module
        followers = module.target_networks()
        periods = {follower.every for follower in followers}
        self._polyak = {every: parameters([f for f in followers if f.every == every]) for every in periods}
        self._ema = parameters(module.ema_networks())
        self._tell_reach(trainer, module)

    def _tell_reach(self, trainer: L.Trainer, module: Any) -> None:
        """Say if values cannot travel over the task's horizon in this run, where actions depend on them."""
        steps = trainer.max_steps
        if steps <= 0 or not module.uses_values or not module.target_networks():
            return
        data = getattr(trainer, "datamodule", None)
        if not isinstance(data, OfflineDataModule):  # a loader of the user's own: nothing is known about its episodes
            return
        n_step = data.hparams["n_step"]
        tau = self.tau / max(self._polyak)
        found, wanted = reach(steps, tau, n_step), horizon(data.facts.length.high, module.discount)
        if found < wanted:
            rank_zero_info(
                f"short run: in {steps} gradient steps values travel over about {found:.0f} environment steps, of {wanted:.0f} "
                "that matter here. Until then actions are chosen by the critics' errors; set trainer.max_steps to "
                f"{math.ceil(wanted / tau / n_step)} or data.n_step to {math.ceil(n_step * wanted / found)}, or more"
            )

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Update both averages from the weights this batch produced."""
        for every, tensors in self._polyak.items():
            if (trainer.global_step - 1) % every == 0:
                move_towards(*tensors, self.tau)
        weight = self.ema_weight(trainer.global_step - 1)
        if weight and self._ema[0]:
            move_towards(*self._ema, weight)
