"""The benchmark of the gradient step still runs; what it measures is in benchmarks/README.md."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_the_step_benchmark_runs_and_prints_its_table():
    command = [sys.executable, "benchmarks/step.py", "--quick", "--threads", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    assert "goal" in done.stdout
