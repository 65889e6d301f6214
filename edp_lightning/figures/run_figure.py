"""The figure of one run: its policy at work in its maze, and what its evaluations said while it learned."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gymnasium.envs.registration import EnvSpec

from edp_lightning.data.datamodule import OfflineDataModule
from edp_lightning.environments.families import family_of
from edp_lightning.environments.recipe import EvaluationEnvironment
from edp_lightning.errors import UserError
from edp_lightning.evaluation.loaded_policy import load_policy
from edp_lightning.figures.drawing import check_output, new_figure
from edp_lightning.figures.film import Way, draw_maze, trace
from edp_lightning.figures.runs import Curve, read_curves
from edp_lightning.runs.checkpoint_io import read_checkpoint
from edp_lightning.runs.run_folder import checkpoint_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SCORES = {
    "evaluation/success_rate": "success rate",
    "evaluation/normalized_score": "normalised score",
    "evaluation/return": "return",
}
"""Logged metric -> label; the first one that a run has is drawn."""

BIAS = "q_diagnostics/bias"


def evaluation_of(folder: str | Path, checkpoint: str = "last") -> EvaluationEnvironment | None:
    """Return the environment in which a run is judged, or None if its dataset names none.

    Args:
        folder: The run's folder.
        checkpoint: ``last`` or ``best``; the data's options are read from it.

    Raises:
        UserError: If there is no such checkpoint, or its dataset is not on this machine.
    """
    return environment_of(checkpoint_file(folder, checkpoint))


def environment_of(ckpt_path: str | Path) -> EvaluationEnvironment | None:
    """Return the environment in which the run of a checkpoint file is judged, or None if its dataset names none.

    Raises:
        UserError: If there is no such checkpoint, it does not say which data it learned from, or they are not on this machine.
    """
    saved = read_checkpoint(ckpt_path).get("datamodule_hyper_parameters")
    if saved is None:
        raise UserError(f"{ckpt_path} does not say which data it was trained on, and so not in which environment it acts")
    data = OfflineDataModule(**{name: value for name, value in saved.items() if not name.startswith("_")})
    data.prepare_data()
    data.setup("validate")
    return data.environment


def draw_run(curves: Mapping[str, Curve], maze: tuple[Sequence[Sequence[Any]], float] | None, ways: Sequence[Way]) -> "Figure":
    """Return a figure with as many panels as a run has something to show in: ways, score, error of the critics.

    Args:
        curves: Scalars of the run by name.
        maze: Cells and metres per cell of the run's maze, if it is one.
        ways: Episodes in it.

    Raises:
        UserError: If there is nothing to draw.
    """
    score = next((name for name in SCORES if name in curves), None)
    if maze is None and score is None:
        raise UserError("this run was never evaluated, and its environment is no maze: there is nothing to draw")
    figure, axes = new_figure((maze is not None) + (score is not None) + (BIAS in curves), 4.0, 3.6)
    panels = iter(axes)
    if maze is not None:
        _draw_ways(next(panels), maze, ways)
    if score is not None:
        ax = next(panels)
        _draw_curve(ax, curves[score])
        ax.set(title="Score at each evaluation", ylabel=SCORES[score])
        if score == "evaluation/success_rate":
            ax.set_ylim(0, 1.05)
    if BIAS in curves:
        ax = next(panels)
        ax.axhline(0, color="0.6", linewidth=1)
        _draw_curve(ax, curves[BIAS])
        ax.set(title="Error of the critics", ylabel="mean Q minus collected return")
    return figure


def _draw_ways(ax: Any, maze: tuple[Sequence[Sequence[Any]], float], ways: Sequence[Way]) -> None:
    draw_maze(ax, *maze)
    for way in ways:
        ax.plot(*way.position.T, linewidth=1, alpha=0.8, color="C0" if way.success else "C1")
        ax.plot(*way.position[0], "o", color="black", markersize=3)
    reached = sum(way.success for way in ways)
    ax.set(title=f"{reached} of {len(ways)} episodes reach the goal")


def _draw_curve(ax: Any, curve: Curve) -> None:
    ax.plot(curve.step + 1, curve.value, ".-")
    ax.set(xlabel="gradient steps")
    ax.grid(alpha=0.3)


def draw_run_folder(folder: str, checkpoint: str, episodes: int, seed: int, output: str) -> Path:
    """Draw a run into a picture: episodes of its policy in its maze, its score and the error of its critics over training.

    Args:
        folder: The run's folder, ``OUTPUT/DATASET/RUN_NAME-seedSEED``.
        checkpoint: Whose policy plays, ``last`` or ``best``.
        episodes: Episodes to play, at least 1.
        seed: Seed of the first one, at least 0; evaluations begin with 10000.
        output: Picture to write.

    Returns:
        The picture's path.

    Raises:
        UserError: If the run, its dataset, the output or the extra ``plot`` is not to be had, or a number is out of range.
    """
    if episodes < 1:
        raise UserError(f"--episodes must be at least 1; got {episodes}")
    if seed < 0:
        raise UserError(f"--seed must be at least 0; got {seed}")
    path = check_output(output)
    curves = read_curves(folder)
    policy = load_policy(folder, checkpoint).algorithm
    environment = evaluation_of(folder, checkpoint)
    maze, ways = None if environment is None else maze_of(environment), []
    if environment is not None and maze is not None:
        ways = trace(environment, policy, range(seed, seed + episodes))
    draw_run(curves, maze, ways).savefig(path, dpi=100)
    print(f"{folder}: {path}")
    return path


def maze_of(environment: EvaluationEnvironment) -> tuple[Sequence[Sequence[Any]], float] | None:
    """Return the cells of an environment's maze and their size in metres, or None if it is no maze."""
    spec = EnvSpec.from_json(environment.spec_json)
    cell_size = family_of(spec).cell_size
    return (spec.kwargs["maze_map"], cell_size) if cell_size else None
