"""Brings the set of a run onto this machine, where that can be done."""

from lightning.pytorch.utilities import rank_zero_info

from edp_lightning.collect import DATASET_IDS, collect, collecting_alone
from edp_lightning.data.sources.minari import is_local, recorded_steps
from edp_lightning.data.sources.opening import minari_id, obtain


def collect_or_obtain(name: str, allow_download: bool, steps: int | None, seed: int, workers: int) -> None:
    """Collect a missing set that this package collects, if steps are given; otherwise download it, or say how to get it.

    Args:
        name: The set's name.
        allow_download: Whether it may be downloaded.
        steps: Steps to collect.
        seed: Seed of the collection.
        workers: Its processes.

    Raises:
        UserError: If the set is missing and cannot or must not be had.
    """
    names = {dataset_id: name for name, dataset_id in DATASET_IDS.items()}
    dataset_id = minari_id(name)
    if dataset_id not in names or steps is None:
        obtain(name, allow_download)
        return
    if is_local(dataset_id):
        obtain(name, allow_download)
        recorded = recorded_steps(dataset_id)
        if recorded != steps:
            rank_zero_info(
                f"{name} is there with {recorded} steps and is used as it is; data.collect_steps {steps} is for a set that has "
                "to be collected"
            )
        return
    with collecting_alone(dataset_id):
        if not is_local(dataset_id):  # nor has another process collected it meanwhile
            rank_zero_info(f"{name} is not on this machine: collecting {steps} steps with the bundled controller")
            collect(names[dataset_id], steps=steps, workers=workers, seed=seed)
