"""What the command line imports before it knows what to do."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAVY = ("gymnasium", "gymnasium_robotics", "h5py", "matplotlib", "minari", "mujoco", "pyarrow", "sklearn", "tensorboard")
PROBE = """
import sys
import lightning.pytorch
before = set(sys.modules)
from edp_lightning.cli import main
try:
    main(sys.argv[1:])
except SystemExit as stop:
    assert stop.code == 0, stop.code
print("imported:", *sorted(name for name in set(sys.modules) - before if "." not in name), file=sys.stderr)
"""


def test_help_imports_neither_environments_nor_file_formats():
    done = subprocess.run([sys.executable, "-c", PROBE, "fit", "--help"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    imported = done.stderr.rpartition("imported:")[2].split()
    assert "jsonargparse" in imported
    assert sorted(set(HEAVY) & set(imported)) == []
