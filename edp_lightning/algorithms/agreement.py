"""What a module and its data must agree on, looked at when training starts: units, discount, seed."""

from collections.abc import Mapping
from typing import Any, NamedTuple

from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from edp_lightning.errors import UserError
from edp_lightning.networks.scaling import ActionScaler, ObservationNormalizer


class Scales(NamedTuple):
    """The units of a dataset.

    Attributes:
        action_low: Lower bounds of the actions, which become -1 for the networks, shape (action_dim,).
        action_high: Upper bounds, which become 1.
        observation_mean: What is subtracted from observations, shape (observation_dim,).
        observation_std: What they are then divided by.
    """

    action_low: Tensor
    action_high: Tensor
    observation_mean: Tensor
    observation_std: Tensor


def scales_of(data: Any) -> Scales | None:
    """Return the units of a data module; None if there is none, or one that does not say."""
    if data is None or not all(hasattr(data, name) for name in Scales._fields):
        return None
    return Scales(*(getattr(data, name) for name in Scales._fields))


def refuse_unknown_scales(known: bool) -> None:
    """Refuse to train on batches whose units nobody has told.

    Raises:
        UserError: If the module has no scales, from a data module, a checkpoint or ``set_scales``.
    """
    if not known:
        raise UserError(
            "batches from a loader do not say what their actions and observations are measured in, so the policy's actions "
            "would have no unit: fit with datamodule=OfflineDataModule(...) (from_arrays takes arrays in memory), or call "
            "model.set_scales(action_low, action_high) first; actions in batches are scaled to [-1, 1]"
        )


def check_shared_options(model: Mapping[str, Any], data: Mapping[str, Any]) -> None:
    """Refuse options that module and data both have and that differ; the command line links them.

    Args:
        model: Hyperparameters of the module.
        data: Hyperparameters of the data module.

    Raises:
        UserError: With both values.
    """
    names = {"seed": True, "discount": data.get("n_step", 1) > 1}  # the data's discount is for sums over several steps
    for name, used in names.items():
        if used and name in model and name in data and model[name] != data[name]:
            raise UserError(
                f"the model has {name} {model[name]} and the data have {name} {data[name]}: give both the same, "
                f"OfflineDataModule(..., {name}={model[name]}) or {name}={data[name]} for the model"
            )


def agree_on_scales(
    scaler: ActionScaler, normalizer: ObservationNormalizer, data: Scales, dataset: str, take_datas: bool
) -> bool:
    """Let a module that was trained before keep its scales, or take those of the data it goes on with.

    Args:
        scaler: The module's, whose bounds its networks know.
        normalizer: The module's.
        data: Units of the dataset.
        dataset: Its name.
        take_datas: Take the dataset's.

    Returns:
        Whether the actions have another unit now.

    Raises:
        UserError: If action bounds differ and the module's are to be kept: the table is scaled with the dataset's.
    """
    low, high, mean, std = (value.to(scaler.low.device) for value in data)
    same_bounds = _close(scaler.low, low, high - low) and _close(scaler.high, high, high - low)
    same_statistics = _close(normalizer.mean, mean, std) and _close(normalizer.std, std, std)
    if take_datas:
        changed = " and ".join(
            [*(["action bounds"] * (not same_bounds)), *(["observation statistics"] * (not same_statistics))]
        )
        if changed:
            rank_zero_info(
                f"{changed} are those of {dataset}, no longer those the model was trained with (data.scales: dataset)"
            )
        scaler.set(low, high)
        normalizer.set(mean, std)
        return not same_bounds
    if not same_bounds:
        kept = f"data.action_low {_text(scaler.low)} and data.action_high {_text(scaler.high)}"
        raise UserError(
            f"the model (or its checkpoint) was trained with actions from {_text(scaler.low)} to {_text(scaler.high)}, but "
            f"those of {dataset} go from {_text(low)} to {_text(high)}: the same numbers would mean other actions. Give {kept} "
            "to keep the model's units, data.scales dataset to let it learn the new ones, or train a new model"
        )
    if not same_statistics:
        rank_zero_info(
            f"observations are normalised with the statistics the model was trained with, not with those of {dataset}; "
            "data.scales dataset takes the new ones"
        )
    return False


def _close(a: Tensor, b: Tensor, unit: Tensor) -> bool:
    return bool(((a - b).abs() <= 1e-5 * unit.abs()).all())


def _text(bounds: Tensor) -> str:
    values = [float(f"{value:.6g}") for value in bounds.tolist()]
    return f"{values[0]:g}" if len(set(values)) == 1 else "[" + ", ".join(f"{value:g}" for value in values) + "]"
