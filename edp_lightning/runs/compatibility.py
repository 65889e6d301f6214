"""Refusals: trainers, datasets and checkpoints that a module cannot work with, each with the way out."""

from collections.abc import Mapping
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.strategies import DDPStrategy, SingleDeviceStrategy

from edp_lightning.errors import UserError
from edp_lightning.runs.launchers import check_launch

UNSUPPORTED_CALLBACKS: dict[type[L.Callback], str] = {
    StochasticWeightAveraging: "the EMA actor is the average here: see the section target_update",
    WeightAveraging: "the EMA actor is the average here: see the section target_update",
    GradientAccumulationScheduler: "raise data.batch_size",
    BatchSizeFinder: "set data.batch_size",
    LearningRateFinder: "set model.actor_lr and model.critic_lr",
}
"""Callbacks of Lightning's that take training into their own hands, for one optimizer -> what to do instead."""


def check_strategy(strategy: Any) -> None:
    """Refuse a strategy by its name, before Lightning looks for the hardware or package it wants.

    Args:
        strategy: ``trainer.strategy`` of a config: a name, or a mapping with ``class_path``.

    Raises:
        UserError: For anything but a single device and DDP.
    """
    name = strategy if isinstance(strategy, str) else str(getattr(strategy, "class_path", "auto")).rpartition(".")[2]
    if name not in ("auto", "SingleDeviceStrategy", "DDPStrategy") and not name.startswith(("ddp", "single_device")):
        raise _unsupported(name)


def check_trainer(trainer: L.Trainer) -> None:
    """Refuse settings under which the gradient step would be wrong or hang.

    Raises:
        UserError: For any precision but ``32-true``, which is the model's to choose, for strategies other than a single
            device and DDP, for gradient clipping or accumulation by the trainer, for callbacks that train themselves, and
            for a launcher that started another number of processes.
    """
    if trainer.precision != "32-true":
        raise UserError(
            f"trainer.precision {trainer.precision} is not supported: it would reach heads and optimizers. Use "
            "32-true with model.hidden_precision bfloat16 or auto"
        )
    if not isinstance(trainer.strategy, (SingleDeviceStrategy, DDPStrategy)):
        raise _unsupported(type(trainer.strategy).__name__)
    if trainer.gradient_clip_val is not None:
        raise UserError("trainer.gradient_clip_val does not reach two optimizers: use model.gradient_clip_val")
    if trainer.accumulate_grad_batches != 1:
        raise UserError("trainer.accumulate_grad_batches is not supported: raise data.batch_size")
    if getattr(trainer, "_val_check_time_interval", None) is not None and trainer.world_size > 1:
        raise UserError(
            "trainer.val_check_interval as a time does not work with several devices, of which each asks its own clock: give a "
            "number of steps"
        )
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        for kind, instead in UNSUPPORTED_CALLBACKS.items():
            if isinstance(callback, kind):
                raise UserError(f"the callback {type(callback).__name__} does not work with two optimizers: {instead}")
    check_launch(trainer.num_devices, trainer.num_nodes)


def _unsupported(strategy: str) -> UserError:
    return UserError(
        f"strategy {strategy} is not supported: the networks fit on any device many times over, so sharding them only adds "
        "traffic; use trainer.strategy auto, ddp or ddp_spawn"
    )


WIDTHS = ("observation_dim", "action_dim")
"""Options that are taken from the dataset when not given."""


def agreed_width(name: str, wanted: int | None, offered: int | None, dataset: str) -> int:
    """Return the width of observations or actions on which model and dataset agree.

    Args:
        name: ``observation_dim`` or ``action_dim``.
        wanted: The model's own setting, from arguments or a checkpoint.
        offered: The dataset's.
        dataset: Its id, for the message.

    Raises:
        UserError: If neither states it or they differ.
    """
    if wanted is None and offered is None:
        raise UserError(f"model.{name} is not set and there is no dataset to take it from")
    if wanted is not None and offered is not None and wanted != offered:
        raise UserError(
            f"the model (or its checkpoint) has {name} {wanted} but the dataset {dataset} has {offered}: use the dataset and "
            "view the checkpoint was trained on, or train a new model"
        )
    width = offered if wanted is None else wanted
    assert width is not None
    return width


def check_checkpoint(saved: Mapping[str, Any], present: Mapping[str, Any], names: tuple[str, ...]) -> None:
    """Refuse a checkpoint whose weights mean something else in this model.

    Args:
        saved: Hyperparameters in the checkpoint.
        present: Hyperparameters of the model.
        names: Which of them must be equal.

    Raises:
        UserError: With both values.
    """
    for name in names:
        inferred = present[name] is None and name in WIDTHS
        if name in saved and not inferred and saved[name] != present[name]:
            raise UserError(
                f"the checkpoint has {name} {saved[name]} but this run has {present[name]}: it belongs to another config or "
                "dataset; train a new model or pass the config saved beside the checkpoint"
            )
