"""Draws figure 3 of the slides on arXiv 2402.04080."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from edp_lightning.collect.toy import SECOND_STEP_STD, reward_mean
from edp_lightning.figures.drawing import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Floats = NDArray[Any]
OPTIMUM = 2.0


@dataclass(frozen=True)
class ToyResults:
    """What the runs on the two-step task left behind. The axis of seeds comes first.

    Attributes:
        state: s' of the data's steps, shape (steps,).
        reward: Their rewards, shape (steps,).
        epoch: Epochs at which policies were evaluated, shape (evaluations,).
        returns: Label of a variant -> mean returns of its evaluations, shape (seeds, evaluations).
        action: Actions at which critics were read, shape (actions,).
        q: Label of a curve -> Q(0, a), shape (seeds, actions).
        discount: Discount of the critics.
    """

    state: Floats
    reward: Floats
    epoch: NDArray[np.int64]
    returns: Mapping[str, Floats]
    action: Floats
    q: Mapping[str, Floats]
    discount: float


def q_of_staying(action: Floats, discount: float) -> Floats:
    """Return the exact Q(0, a) of a policy whose second step is the data's, N(0, 0.04^2); shape of ``action``."""
    node, weight = np.polynomial.hermite_e.hermegauss(41)
    second = np.clip(action[:, None] + SECOND_STEP_STD * node, -1, 1)
    expected: Floats = reward_mean(action) + discount * reward_mean(second) @ (weight / weight.sum())
    return expected


def draw_toy(results: ToyResults) -> "Figure":
    """Return the three panels: reward and data, training progress, learned values of the first step."""
    figure, (task, progress, values) = new_figure(3)
    grid = np.linspace(-1, 1, 401)

    task.scatter(results.state, results.reward, s=7, linewidths=0, alpha=0.5, color="C0", label="training samples")
    task.plot(grid, reward_mean(grid), color="black", label="expected reward")
    task.set(title="Reward and data", xlabel="state", ylabel="reward")
    task.hist(
        results.state, bins=40, weights=np.full(len(results.state), 1 / len(results.state)), color="0.85", label="their density"
    )
    task.legend(loc="upper right")

    for index, (label, returns) in enumerate(results.returns.items()):
        _band(progress, results.epoch, returns, f"C{index}", label)
    progress.axhline(OPTIMUM, color="0.5", linestyle="--", linewidth=1, label="optimum")
    progress.set(title="Training progress", xlabel="epoch", ylabel="return", ylim=(0, 1.05 * OPTIMUM))
    progress.legend(loc="lower right")

    values.plot(grid, q_of_staying(grid, results.discount), color="black", linestyle=":", label="exact, if step two stays")
    for index, (label, q) in enumerate(results.q.items()):
        _band(values, results.action, q, f"C{index + 3}", label)
    values.set(title="Q(0, a)", xlabel="action", ylabel="Q")
    values.legend(loc="upper right")
    return figure


def _band(ax: Any, x: NDArray[Any], y: Floats, color: str, label: str) -> None:
    """Draw the mean over seeds, with a band of one standard deviation if there are several."""
    mean = y.mean(axis=0)
    ax.plot(x, mean, color=color, label=label)
    if len(y) > 1:
        std = y.std(axis=0, ddof=1)
        ax.fill_between(x, mean - std, mean + std, color=color, alpha=0.25, linewidth=0)
