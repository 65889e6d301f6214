"""The package as users install it: from a wheel, without network, beside folders of their own."""

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_wheel_works_beside_a_users_own_callbacks_folder(tmp_path):
    source = tmp_path / "source"
    source.mkdir()
    for name in ("edp_lightning", "callbacks"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir"]
    subprocess.run([*pip, tmp_path / "dist", source], check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    site = tmp_path / "site"
    zipfile.ZipFile(wheel).extractall(site)
    assert (site / "edp_lightning" / "py.typed").is_file()
    native = [{path.name for path in (root / "edp_lightning" / "acceleration" / "native").glob("*.*")} for root in (site, ROOT)]
    assert native[0] == native[1]
    assert not (site / "tests").exists()
    work = tmp_path / "work"
    (work / "callbacks").mkdir(parents=True)
    (work / "callbacks" / "__init__.py").write_text("raise RuntimeError('not the callbacks of edp_lightning')")
    probe = (
        "import edp_lightning.cli, edp_lightning.callbacks as c; from edp_lightning.collect.controllers import AntController; "
        "AntController(); print(c.__file__)"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe], cwd=work, env={"PYTHONPATH": str(site), "PATH": ""}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == str(site / "edp_lightning" / "callbacks" / "__init__.py")
