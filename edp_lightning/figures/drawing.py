"""Creates and saves figures without touching matplotlib's global state, and says what to install where it is missing."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from edp_lightning.errors import UserError
from edp_lightning.runs.run_folder import check_writable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MISSING = "figures need matplotlib and scikit-learn: pip install 'edp_lightning[plot]'"


def new_figure(panels: int, width: float = 5.0, height: float = 4.0) -> tuple["Figure", list[Any]]:
    """Return a figure with panels side by side, and their axes.

    Args:
        panels: Number of panels.
        width: Width of a panel in inches.
        height: Height in inches.

    Raises:
        UserError: If matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError(f"{MISSING} ({error})") from error
    figure = Figure(figsize=(width * panels, height), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, panels, squeeze=False)
    return figure, list(axes[0])


def check_output(output: str) -> Path:
    """Return the path of a picture that can be written, with its folder created.

    Raises:
        UserError: If matplotlib is not installed, the file's ending names no format it writes, or the folder is not writable.
    """
    figure, _ = new_figure(1)
    path = Path(output)
    formats = figure.canvas.get_supported_filetypes()
    if path.suffix[1:].lower() not in formats:
        raise UserError(f"{output}: the ending of a picture's name says its format; choose one of {', '.join(sorted(formats))}")
    check_writable(path.parent)
    return path
