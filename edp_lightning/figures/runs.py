"""Reads the curves that a run left behind."""

from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from edp_lightning.errors import UserError


class Curve(NamedTuple):
    """A logged scalar over the run.

    Attributes:
        step: Gradient steps taken before it was logged, shape (points,).
        value: Shape (points,).
    """

    step: NDArray[np.int64]
    value: NDArray[np.float64]


def read_curves(folder: str | Path) -> dict[str, Curve]:
    """Return all scalars of a run's TensorBoard events by name, resumed runs included.

    Args:
        folder: The run's folder, ``OUTPUT/DATASET/RUN_NAME-seedSEED``.

    Raises:
        UserError: If there are no events in it.
    """
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    files = list(Path(folder).glob("events*"))
    if not files:
        raise UserError(f"{folder} holds no TensorBoard events: give the folder of a run, OUTPUT/DATASET/RUN_NAME-seedSEED")
    found: dict[str, dict[int, float]] = {}
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    events.Reload()
    for name in events.Tags()["scalars"]:
        found[name] = {event.step: event.value for event in events.Scalars(name)}
    return {
        name: Curve(np.array(sorted(points)), np.array([points[step] for step in sorted(points)]))
        for name, points in found.items()
    }
