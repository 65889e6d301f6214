"""Progress where output goes to a file."""

import io

import pytest
from rich.console import Console

from edp_lightning.runs import progress
from edp_lightning.runs.progress import LoggedProgress


@pytest.mark.parametrize(("seconds", "lines"), [(0.0, ["walking: 40 of 100", "walking: 80 of 100"]), (1000.0, [])])
def test_a_log_is_told_how_far_long_work_is(monkeypatch, seconds, lines):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", seconds)
    output = io.StringIO()
    with LoggedProgress(console=Console(file=output)) as shown:
        task = shown.add_task("walking", total=100)
        for _ in range(2):
            shown.advance(task, 40)
    told = [line.strip() for line in output.getvalue().splitlines() if line.startswith("walking: ")]
    assert told == lines


def test_a_terminal_gets_the_bar_alone(monkeypatch):
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0.0)
    output = io.StringIO()
    with LoggedProgress(console=Console(file=output, force_terminal=True)) as shown:
        shown.advance(shown.add_task("walking", total=100), 40)
    assert "40 of 100" not in output.getvalue()
