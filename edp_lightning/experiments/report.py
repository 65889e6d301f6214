"""The ``report`` command."""

from collections.abc import Sequence
from pathlib import Path

from edp_lightning.experiments.pictures import draw
from edp_lightning.experiments.published import published
from edp_lightning.experiments.results import read_grid
from edp_lightning.experiments.summary import summarize
from edp_lightning.experiments.tables import comma_separated, latex, markdown
from edp_lightning.runs.run_folder import check_writable


def report(folders: Sequence[str], against: str | None = None, output: str = "report") -> list[Path]:
    """Write tables and figures of all result files below some folders; the same files give the same report.

    Args:
        folders: Folders of runs.
        against: Name of a published table to be set beside them.
        output: Folder for ``report.md``, ``report.csv``, ``report.tex`` and the pictures.

    Returns:
        The files.

    Raises:
        UserError: If there is nothing to report, the folder cannot be written, or the extra ``report`` is not installed.
    """
    grid = read_grid(folders)
    table = None if against is None else published(against)
    summary = summarize(grid, table)
    folder = Path(output)
    check_writable(folder)
    texts = {
        "report.md": markdown(grid, summary, table),
        "report.csv": comma_separated(summary),
        "report.tex": latex(grid, summary),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    files = [*(folder / name for name in texts), *draw(folder, grid, summary)]
    for file, reason in grid.left_out:
        print(f"left out: {file}: {reason}")
    print(
        f"{len(grid.cells)} cells of {sum(len(cell.last) for cell in grid.cells.values())} runs: {', '.join(map(str, files))}"
    )
    return files
