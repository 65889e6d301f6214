"""Calibration plot: what the critics say against what was collected."""

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edp_lightning.figures.drawing import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def draw_calibration(value: NDArray[np.floating], mean: NDArray[np.floating], pessimistic: NDArray[np.floating]) -> "Figure":
    """Return a scatter plot of critics' values over discounted returns; on the diagonal they agree.

    Args:
        value: Discounted returns in training's units, shape (steps,).
        mean: Mean of the critics, shape (steps,).
        pessimistic: Their aggregate that the policy is trained on (LCB or minimum), shape (steps,).
    """
    figure, (ax,) = new_figure(1, 4.5, 4.2)
    ends = [float(np.min([value, mean, pessimistic])), float(np.max([value, mean, pessimistic]))]
    ax.plot(ends, ends, color="0.6", linewidth=1)
    ax.scatter(value, mean, s=6, linewidths=0, alpha=0.6, label="mean of the critics")
    ax.scatter(value, pessimistic, s=6, linewidths=0, alpha=0.6, label="pessimistic value")
    ax.set(xlabel="discounted return", ylabel="Q of the executed action")
    ax.legend(loc="upper left")
    return figure
