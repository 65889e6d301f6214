"""A report as text: Markdown, CSV and LaTeX."""

import csv
import io
from collections.abc import Sequence

from edp_lightning.experiments.published import Published
from edp_lightning.experiments.results import Grid
from edp_lightning.experiments.statistics import Estimate
from edp_lightning.experiments.summary import Summary

COLUMNS = (
    "task", "system", "score", "last", "last_low", "last_high", "best", "best_low", "best_high", "seeds", "best_seeds", "steps",
    "hours", "published",
)  # fmt: skip


def markdown(grid: Grid, summary: Summary, against: Published | None = None) -> str:
    """Return the whole report."""
    parts = ["# Results", "Mean over seeds of training and its 95 % interval (bootstrap, arXiv 2108.13264)."]
    if against is not None:
        parts.append(f"Published: {against.title}. {against.caveat}")
    header = ["Task", "System", "Last", "Best", *(["Published"] if against else []), "Score", "Seeds", "Steps", "Hours"]
    body = []
    for row in summary.rows:
        theirs = [number(row.published)] if against else []
        seeds = ", ".join(map(str, row.seeds))
        hours = "" if row.hours is None else f"{row.hours:.2f}"
        body.append(
            [row.task, row.system, interval(row.last), interval(row.best), *theirs, row.scale, seeds, f"{row.steps:,}", hours]
        )
    parts.append(_markdown_table(header, body))
    if summary.over_tasks:
        parts.append("## Over tasks")
        parts.append(f"Last checkpoints, {len(summary.over_tasks)} tasks: {', '.join(summary.over_tasks)}.")
        means = [[system, interval(estimate)] for system, estimate in summary.interquartile.items()]
        parts.append(_markdown_table(["System", "Interquartile mean"], means))
    if summary.improvement:
        parts.append("Probability that a run of the row's system scores higher than one of the column's:")
        systems = list(summary.interquartile)
        pairs = [[a, *(interval(summary.improvement.get((a, b)), 2) for b in systems)] for a in systems]
        parts.append(_markdown_table(["", *systems], pairs))
    parts += ["\n".join(f"- {note}" for note in summary.notes)] if summary.notes else []
    parts += ["## Data and versions", _origins(grid)]
    if grid.left_out:
        parts.append("## Left out")
        parts.append("\n".join(f"- `{file}`: {reason}" for file, reason in grid.left_out))
    return "\n\n".join(parts) + "\n"


def comma_separated(summary: Summary) -> str:
    """Return the rows with full precision, one line per task and system."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    for row in summary.rows:
        best = row.best or (None, None, None)
        seeds = " ".join(map(str, row.seeds))
        writer.writerow(
            [row.task, row.system, row.scale, *row.last, *best, seeds, row.best_seeds, row.steps, row.hours, row.published]
        )
    return text.getvalue()


def latex(grid: Grid, summary: Summary) -> str:
    """Return a table of last checkpoints, tasks by systems, for the package booktabs."""
    rows = {(row.task, row.system): row for row in summary.rows}
    lines = [
        rf"\begin{{tabular}}{{l{'r' * len(grid.systems)}}}",
        r"\toprule",
        _latex_line(["Task", *grid.systems]),
        r"\midrule",
    ]
    for task in grid.tasks:
        found = [rows.get((task, system)) for system in grid.systems]
        lines.append(_latex_line([task, *("" if row is None else interval(row.last) for row in found)]))
    if summary.interquartile:
        lines += [r"\midrule", _latex_line(["Interquartile mean", *(interval(summary.interquartile[s]) for s in grid.systems)])]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def number(value: float | None, digits: int = 1) -> str:
    """Return a number as text, nothing for None."""
    return "" if value is None else f"{value:.{digits}f}"


def interval(estimate: Estimate | None, digits: int = 1) -> str:
    """Return an estimate with its interval, if it has one."""
    if estimate is None:
        return ""
    text = number(estimate.value, digits)
    return text if estimate.low is None else f"{text} [{number(estimate.low, digits)}, {number(estimate.high, digits)}]"


def _markdown_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)


def _origins(grid: Grid) -> str:
    """Return which cells are of which versions, and how each set is seen."""
    versions: dict[str, list[str]] = {}
    sets: dict[str, None] = {}
    for (task, system), cell in grid.cells.items():
        first = cell.last[0]
        text = ", ".join(f"{name} {version}" for name, version in first.versions.items())
        versions.setdefault(text, []).append(f"{task} {system}")
        sets[f"- `{task}`, view {first.protocol['view']}"] = None
    many = len(versions) > 1
    lines = [f"- {text}{': ' + '; '.join(cells) if many else ''}" for text, cells in versions.items()]
    return "\n".join([*sets, *lines])


def _latex_line(cells: Sequence[str]) -> str:
    escaped = [cell.replace("\\", r"\textbackslash{}") for cell in cells]
    for character in "&%$#_{}":
        escaped = [cell.replace(character, f"\\{character}") for cell in escaped]
    return " & ".join(escaped) + r" \\"
