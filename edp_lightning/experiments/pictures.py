"""A report as pictures: bars with intervals, learning curves of all seeds, performance profiles."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from edp_lightning.experiments.results import Grid
from edp_lightning.experiments.statistics import performance_profile
from edp_lightning.experiments.summary import Summary, scores_by_system
from edp_lightning.figures.drawing import new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LINES = ("-", "--", ":")


def draw_bars(grid: Grid, summary: Summary) -> "Figure":
    """Return a figure with a panel per task and a bar per system: last checkpoints with their intervals."""
    figure, axes = new_figure(len(grid.tasks), 1.2 + 0.5 * len(grid.systems), 3.6)
    for ax, task in zip(axes, grid.tasks, strict=True):
        rows = [row for row in summary.rows if row.task == task]
        for row in rows:
            place = grid.systems.index(row.system)
            ax.bar(place, row.last.value, color=_style(grid, row.system)["color"])
            if row.last.low is not None and row.last.high is not None:
                ends = [[max(0.0, row.last.value - row.last.low)], [max(0.0, row.last.high - row.last.value)]]
                ax.errorbar(place, row.last.value, yerr=ends, color="black", capsize=3)
        ax.set_xticks(range(len(grid.systems)), grid.systems, rotation=90, fontsize=7)
        ax.set_title(task, fontsize=8)
        ax.set_ylabel(rows[0].scale, fontsize=8)
    return figure


def draw_curves(grid: Grid) -> "Figure | None":
    """Return a figure with a panel per task: each seed's evaluations and their mean; None if no run has curves."""
    curves: dict[str, dict[str, list[dict[int, float]]]] = {}
    for (task, system), cell in grid.cells.items():
        for result in cell.last:
            if result.curve:
                curves.setdefault(task, {}).setdefault(system, []).append(dict(result.curve))
    if not curves:
        return None
    figure, axes = new_figure(len(curves), 4.5, 4.6)
    from matplotlib.ticker import EngFormatter

    for ax, (task, systems) in zip(axes, sorted(curves.items()), strict=True):
        for system, found in systems.items():
            style = _style(grid, system)
            for curve in found:
                ax.plot(list(curve), list(curve.values()), **style, alpha=0.3, linewidth=0.8)
            steps = sorted(set.intersection(*map(set, found)))
            values = [np.mean([curve[step] for curve in found]) for step in steps]
            ax.plot(steps, values, **style, label=f"{system} ({len(found)})")
        ax.xaxis.set_major_formatter(EngFormatter(sep=""))  # 100k
        ax.set_title(task, fontsize=8)
        ax.set(xlabel="gradient steps", ylabel=next(row.last[0].scale for (name, _), row in grid.cells.items() if name == task))
        ax.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, -0.2))  # many systems would hide the curves
    return figure


def draw_profiles(grid: Grid, summary: Summary) -> "Figure | None":
    """Return a figure of the share of runs above each score; None without tasks on a common scale."""
    if not summary.over_tasks:
        return None
    scores = scores_by_system(grid, summary.over_tasks)
    every = np.concatenate([task for tasks in scores.values() for task in tasks])
    thresholds = np.linspace(min(0.0, every.min()), max(every.max(), 1.0), 201)
    figure, (ax,) = new_figure(1, 5.0, 3.6)
    for system, tasks in scores.items():
        profile = performance_profile(tasks, thresholds)
        ax.step(thresholds, profile, where="post", **_style(grid, system), label=system)
    ax.set(xlabel="score", ylabel="share of runs above it", ylim=(0, 1.02))
    ax.legend(fontsize=7)
    return figure


def _style(grid: Grid, system: str) -> dict[str, str]:
    """Return colour and kind of line of a system: ten colours, then the same ones dashed, then dotted."""
    turn, color = divmod(grid.systems.index(system), 10)
    return {"color": f"C{color}", "linestyle": LINES[turn % len(LINES)]}


def draw(folder: Path, grid: Grid, summary: Summary) -> list[Path]:
    """Draw all figures that there is something for, and return their files."""
    figures: dict[str, Any] = {
        "scores.png": draw_bars(grid, summary),
        "curves.png": draw_curves(grid),
        "profiles.png": draw_profiles(grid, summary),
    }
    written = []
    for name, figure in figures.items():
        (folder / name).unlink(missing_ok=True)  # of an earlier report
        if figure is not None:
            figure.savefig(folder / name, dpi=100, bbox_inches="tight")  # legends may stand outside
            written.append(folder / name)
    return written
