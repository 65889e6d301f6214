"""Values that types alone let through: null, NaN, and numbers outside their range, refused before anything is built."""

import re
import types
from collections.abc import Mapping
from typing import Any, ClassVar, Union, get_args, get_origin, get_type_hints

import lightning as L

from edp_lightning.errors import UserError
from edp_lightning.option_bounds import check_bounds


class TrainerBounds:
    """Ranges of the trainer's options, which Lightning does not refuse."""

    at_least: ClassVar[dict[str, float]] = {"check_val_every_n_epoch": 1, "log_every_n_steps": 1}


def check_section(section: str, values: Any, constructor: Any) -> None:
    """Refuse values of one section of a config.

    Args:
        section: Its name.
        values: What the config says, by option.
        constructor: The class whose arguments these are.

    Raises:
        UserError: Naming the option and what it may be.
    """
    if not isinstance(values, Mapping) and not hasattr(values, "items"):
        raise UserError(f"the section {section} of the config must be a mapping of options; got {values!r}")
    hints = get_type_hints(constructor.__init__)
    for name, value in values.items():
        if value is None and name in hints and not _takes_none(hints[name]):
            raise UserError(f"{section}.{name} must have a value; got null")
    check_bounds(section, dict(values.items()), TrainerBounds if constructor is L.Trainer else constructor)


def check_evaluation_period(trainer: Mapping[str, Any], steps_per_epoch: int) -> None:
    """Refuse an evaluation period of nothing, and one inside epochs that no epoch is long enough for.

    Args:
        trainer: Options of the trainer.
        steps_per_epoch: Gradient steps per epoch.

    Raises:
        UserError: Naming the options.
    """
    interval = trainer.get("val_check_interval")
    if isinstance(interval, (int, float)) and interval <= 0:
        raise UserError(f"trainer.val_check_interval must be above 0; got {interval}")
    inside_epochs = trainer.get("check_val_every_n_epoch") is not None
    limit = trainer.get("limit_train_batches")
    steps = min(steps_per_epoch, limit) if isinstance(limit, int) else steps_per_epoch
    if inside_epochs and isinstance(interval, int) and interval > steps:
        limited = "" if steps == steps_per_epoch else ", of which trainer.limit_train_batches leaves fewer"
        raise UserError(
            f"trainer.val_check_interval is {interval} but an epoch has data.steps_per_epoch {steps_per_epoch} steps{limited}: "
            "evaluate every trainer.check_val_every_n_epoch epochs, or set that to null to count steps across epochs"
        )


def check_root_folder(root: str | None) -> None:
    """Refuse ``trainer.default_root_dir``, which would be ignored.

    Raises:
        UserError: Naming the option that chooses the folder.
    """
    if root is not None:
        raise UserError(
            f"trainer.default_root_dir {root} has no effect: a run lives in OUTPUT/DATASET/RUN_NAME-seedSEED; use "
            f"--output {root}"
        )


def constructor_refused(error: Exception) -> UserError:
    """Return what a class of a config said when it was created, without the parser's account of it.

    Args:
        error: What jsonargparse raised; the refusal itself is at the end of its chain.
    """
    named = re.search(r"class_path '([\w.]+)'", str(error))
    root: BaseException = error
    while (before := root.__cause__ or root.__context__) is not None:
        root = before
    return UserError(f"{named.group(1) if named else 'these settings'} cannot be used here: {root}")


def _takes_none(hint: Any) -> bool:
    if hint is Any or hint is None or hint is type(None):
        return True
    return get_origin(hint) in (Union, types.UnionType) and any(_takes_none(part) for part in get_args(hint))
