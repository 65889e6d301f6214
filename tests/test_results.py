"""The tables of the results page are those of the committed result files."""

from benchmarks.results_page import PAGE, tables, with_tables


def test_the_page_says_what_the_files_say():
    page = PAGE.read_text(encoding="utf-8")
    assert with_tables(page) == page, "run python benchmarks/results_page.py"
    assert "| Task | System | Last |" in tables()


def test_what_is_written_by_hand_stays():
    page = with_tables("before <!-- tables: python benchmarks/results_page.py -->\nold\n<!-- end of the tables -->\nafter")
    assert page.startswith("before ")
    assert page.endswith("\nafter")
    assert "old" not in page
