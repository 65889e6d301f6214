"""The ``film`` command: episodes of a checkpoint's policy as a moving picture."""

from pathlib import Path
from typing import Literal

from edp_lightning.environments.recipe import EvaluationEnvironment
from edp_lightning.errors import UserError
from edp_lightning.evaluation.loaded_policy import load_policy
from edp_lightning.figures.film import Frame, film
from edp_lightning.figures.planar_film import planar_film
from edp_lightning.figures.run_figure import environment_of
from edp_lightning.figures.video import check_video, write_video

Style = Literal["plan", "camera"]
PAUSE = 10
"""Frames for which the last one of an episode stays."""


def film_checkpoint(
    ckpt_path: str, output: str = "film.gif", style: Style | None = None, episodes: int = 1, seed: int = 10_000, every: int = 2,
    fps: int = 20,
) -> Path:  # fmt: skip
    """Film evaluation episodes of a checkpoint's policy.

    Args:
        ckpt_path: Checkpoint file.
        output: Film to write, ``.gif`` or ``.mp4``.
        style: ``plan`` is drawn, ``camera`` is rendered; when not given, a plan where the task is planar.
        episodes: Episodes, at least 1.
        seed: Seed of the first one, at least 0; evaluations begin with 10000.
        every: Decisions between frames, at least 1.
        fps: Frames per second, at least 1.

    Returns:
        The film's path.

    Raises:
        UserError: If checkpoint, dataset, environment, renderer or a package is not to be had, or an option is out of range.
    """
    for name, value in {"episodes": episodes, "every": every, "fps": fps}.items():
        if value < 1:
            raise UserError(f"--{name} must be at least 1; got {value}")
    if seed < 0:
        raise UserError(f"--seed must be at least 0; got {seed}")
    path = check_video(output)
    load_policy(ckpt_path)  # says what is wrong with it before data are prepared
    environment = environment_of(ckpt_path)
    if environment is None:
        raise UserError(f"the dataset of {ckpt_path} names no environment, so there are no episodes to film")
    frames: list[Frame] = []
    for episode in range(episodes):
        scene = scene_of(environment, ckpt_path, style, seed + episode, every)
        frames += [*scene, *[scene[-1]] * PAUSE]
    write_video(path, frames, fps)
    print(f"{ckpt_path}: {path}, {len(frames)} frames")
    return path


def scene_of(environment: EvaluationEnvironment, ckpt_path: str, style: Style | None, seed: int, every: int) -> list[Frame]:
    """Return the frames of one episode.

    Raises:
        UserError: If there is no plan of this task, or nothing can be rendered here.
    """
    if style != "camera":
        frames = planar_film(environment, load_policy(ckpt_path).algorithm, seed, every)
        if frames is not None:
            return frames
        if style == "plan":
            raise UserError("there is no plan of this task: only of mazes and of the two-step task; use --style camera")
    return film(environment, load_policy(ckpt_path).algorithm, seed, every)
