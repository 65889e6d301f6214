"""The tables of the results page are those of the committed result files."""

import json
from pathlib import Path

from benchmarks.results_page import FILES, PAGE, tables, with_tables


def test_the_page_says_what_the_files_say():
    page = PAGE.read_text(encoding="utf-8")
    assert with_tables(page) == page, "run python benchmarks/results_page.py"
    assert "| Task | System | Last |" in tables()


def test_what_is_written_by_hand_stays():
    page = with_tables("before <!-- tables: python benchmarks/results_page.py -->\nold\n<!-- end of the tables -->\nafter")
    assert page.startswith("before ")
    assert page.endswith("\nafter")
    assert "old" not in page


def test_result_files_name_no_place_on_the_machine_that_made_them():
    for file in FILES.rglob("test_*.json"):
        made_of = json.loads(file.read_text(encoding="utf-8"))["checkpoint"].get("file", "")
        assert not Path(made_of).is_absolute(), file
