"""Errors on transitions that training never sees, beside those on transitions that it does see."""

from typing import Any, ClassVar

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from edp_lightning.algorithms.losses import td_target
from edp_lightning.data.tables.table import TransitionTable
from edp_lightning.data.transitions import Batch
from edp_lightning.evaluation.calibration import spread_evenly
from edp_lightning.option_bounds import check_bounds
from edp_lightning.runs.ranks import gather_objects


class HeldOutErrors(L.Callback):
    """Logs at every evaluation of a run with ``data.validation`` how far policy and critics are off there, and in training.

    ``validation/action_error`` is the mean squared distance between one draw of the policy and the set's action, per component
    and in units of [-1, 1]; a policy with a spread of its own keeps some of it. ``validation/td_error`` is the mean squared
    temporal-difference error of the critics' mean, with a draw of the policy in the next state and the pessimistic value of
    the target critics there. ``training/action_error`` and ``training/td_error`` are the same on as many training rows: a gap
    that opens between them is overfitting. Draws are the same at every evaluation.

    Args:
        num_rows: Largest number of rows of each kind, evenly spread over the sets.
    """

    at_least: ClassVar[dict[str, float]] = {"num_rows": 1}

    def __init__(self, num_rows: int = 4096) -> None:
        check_bounds("held_out", {"num_rows": num_rows}, self)
        self.num_rows = num_rows

    @torch.no_grad()
    def on_validation_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Calculate on rank 0, and log."""
        data: Any = getattr(trainer, "datamodule", None)
        held_out = getattr(data, "validation_table", None)
        if held_out is None or trainer.sanity_checking:
            return
        mine: dict[str, float] = {}
        if trainer.is_global_zero:
            for name, table in (("validation", held_out), ("training", data.table)):
                rows = self._rows(table, pl_module.device)
                mine |= {f"{name}/{key}": float(value) for key, value in errors(pl_module, rows).items()}
        values = gather_objects(mine)[0]  # all ranks know what callbacks may watch
        fitting = trainer.state.fn == TrainerFn.FITTING
        pl_module.log_dict(values, logger=False if fitting else None, rank_zero_only=True)
        for logger in trainer.loggers if fitting else []:
            # Lightning's own count of steps is one off after a resume at some points of an epoch
            logger.log_metrics(values, step=trainer.global_step - 1)

    def _rows(self, table: TransitionTable, device: torch.device) -> Batch:
        index = torch.from_numpy(spread_evenly(len(table), self.num_rows)).to(table.rows.device)
        return Batch(*(column.to(device) for column in table.gather(index)))


def errors(algorithm: Any, rows: Batch) -> dict[str, Tensor]:
    """Return the errors of an algorithm on transitions, those that it has: ``action_error`` and ``td_error``, scalars."""
    observation, following = algorithm.normalizer(rows.observation), algorithm.normalizer(rows.next_observation)
    found = {}
    drawn = algorithm.draw_actions(observation, torch.Generator().manual_seed(0))
    if drawn is not None:
        found["action_error"] = (drawn - rows.action).square().mean()
    critics = algorithm.critics
    next_action = None if critics is None else algorithm.draw_actions(following, torch.Generator().manual_seed(1))
    if next_action is not None:
        value = critics.pessimistic(critics.target(following, next_action))
        target = td_target(rows.reward, rows.terminated, rows.steps, value, algorithm.discount)
        found["td_error"] = (critics.online(observation, rows.action).mean(dim=0) - target).square().mean()
    return found
