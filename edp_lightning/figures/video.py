"""Writes frames as a moving picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from edp_lightning.errors import UserError
from edp_lightning.figures.film import Frame

ENDINGS = (".gif", ".mp4")


def check_video(output: str) -> Path:
    """Return the path of a film that can be written, with its folder created.

    Raises:
        UserError: If its ending is none of ``ENDINGS``, what writes it is not installed, or the folder is not writable.
    """
    path = Path(output)
    if path.suffix.lower() not in ENDINGS:
        raise UserError(f"{output}: a film's name ends in {' or '.join(ENDINGS)}")
    try:
        if path.suffix.lower() == ".gif":
            import PIL  # noqa: F401
        else:
            import imageio_ffmpeg  # noqa: F401
    except ImportError as error:
        raise UserError(f"{path.suffix} needs another package ({error}): pip install 'edp_lightning[film]'") from error
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{path.parent} cannot be created ({error.strerror}): choose another --output") from error
    return path


def write_video(path: Path, frames: Sequence[Frame], fps: int) -> None:
    """Write frames of equal size, each (height, width, 3), as a GIF that repeats or as an MP4 (H.264).

    Args:
        path: As :func:`check_video` returned it.
        frames: At least one.
        fps: Frames per second.

    Raises:
        UserError: If the file cannot be written.
    """
    try:
        if path.suffix.lower() == ".gif":
            _write_gif(path, frames, fps)
        else:
            _write_mp4(path, frames, fps)
    except OSError as error:
        raise UserError(f"{path} cannot be written ({error}): choose another --output") from error


GIF_UNIT = 10
"""Milliseconds in which a GIF states durations; viewers slow down what is shown for less than two of them."""


def _write_gif(path: Path, frames: Sequence[Frame], fps: int) -> None:
    from PIL import Image

    first, *others = [Image.fromarray(frame).quantize(128) for frame in frames]
    duration = GIF_UNIT * max(2, round(1000 / GIF_UNIT / fps))
    first.save(path, save_all=True, append_images=others, duration=duration, loop=0)


def _write_mp4(path: Path, frames: Sequence[Frame], fps: int) -> None:
    import imageio_ffmpeg

    height, width = (side - side % 2 for side in frames[0].shape[:2])  # H.264 halves the colours' resolution
    writer: Any = imageio_ffmpeg.write_frames(str(path), (width, height), fps=fps, macro_block_size=2)
    writer.send(None)
    for frame in frames:
        writer.send(np.ascontiguousarray(frame[:height, :width]))
    writer.close()
