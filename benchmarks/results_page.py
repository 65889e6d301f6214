"""Writes the tables and the curves of docs/results.md from the result files in benchmarks/results/policies.

    python benchmarks/results_page.py

A result file comes from ``test`` (or from ``benchmarks/peers/train.py``): copy ``test_last.json`` with its folder's name.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # this file may be run from anywhere

from edp_lightning.experiments.pictures import draw_curves  # noqa: E402
from edp_lightning.experiments.results import read_grid  # noqa: E402
from edp_lightning.experiments.summary import summarize  # noqa: E402
from edp_lightning.experiments.tables import markdown  # noqa: E402

PAGE = ROOT / "docs" / "results.md"
CURVES = ROOT / "docs" / "pictures" / "results_curves.png"
FILES = ROOT / "benchmarks" / "results" / "policies"
BEGIN, END = "<!-- tables: python benchmarks/results_page.py -->", "<!-- end of the tables -->"


def tables() -> str:
    """Return what ``python -m edp_lightning report`` says of the files, its headings one level lower."""
    grid = read_grid([FILES])
    text = markdown(grid, summarize(grid)).partition("\n")[2].replace("\n## ", "\n### ")
    return text.replace(str(ROOT) + "/", "").strip()


def with_tables(page: str) -> str:
    """Return a page with the present tables between its two marks."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n{tables()}\n\n{END}{rest.partition(END)[2]}"


if __name__ == "__main__":
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    curves = draw_curves(read_grid([FILES]))
    assert curves is not None, "no result file holds evaluations in training"
    curves.savefig(CURVES, dpi=100, bbox_inches="tight")
    print(f"{PAGE}: {len(list(FILES.rglob('test_*.json')))} result files")
