"""Every notebook runs from the first cell to the last, in a folder of its own, and is stored without outputs."""

import os
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
nbclient = pytest.importorskip("nbclient")

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
PICTURES = {"toy_task": 1, "entropy": 2, "dataset_tour": 2, "read_a_run": 2}
"""Notebook -> figures it shows at least."""

FAST = {"entropy"}


def executed(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    notebook = nbformat.read(path, as_version=4)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")  # or jupyter_core warns
    client = nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}
    )
    client.execute(env=dict(os.environ))
    return notebook


def outputs(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def test_the_list_of_notebooks_is_complete():
    assert {path.stem for path in NOTEBOOKS} == set(PICTURES)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_stored_without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert outputs(notebook) == []
    assert all(cell.execution_count is None for cell in notebook.cells if cell.cell_type == "code")


@pytest.mark.parametrize(
    "path", [pytest.param(p, id=p.stem, marks=[] if p.stem in FAST else pytest.mark.slow) for p in NOTEBOOKS]
)
def test_runs_from_first_to_last_cell(path, monkeypatch, tmp_path):
    notebook = executed(path, monkeypatch, tmp_path)
    shown = [output for output in outputs(notebook) if "image/png" in output.get("data", {})]
    assert len(shown) >= PICTURES[path.stem]


@pytest.mark.slow
def test_a_machine_that_cannot_render_is_told_so(monkeypatch, tmp_path):
    monkeypatch.setenv("MUJOCO_GL", "glfw")  # needs a display
    monkeypatch.delenv("DISPLAY", raising=False)
    notebook = executed(ROOT / "notebooks" / "read_a_run.ipynb", monkeypatch, tmp_path)
    printed = "".join(output.get("text", "") for output in outputs(notebook))
    assert "MUJOCO_GL=egl" in printed
