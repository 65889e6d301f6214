"""What a bug report needs, also from an installation that is broken."""

import importlib
import re

from edp_lightning.cli import main
from edp_lightning.command_line import info


def test_it_names_versions_devices_acceleration_and_folders(capsys, minari_root, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", "egl")
    main(["info"])
    text = capsys.readouterr().out
    assert re.search(r"^  torch +2\.", text, re.M)
    assert re.search(r"^  processor .* cores usable, 1 threads", text, re.M)
    assert re.search(r"hidden_precision auto takes (float32|bfloat16)$", text, re.M)
    assert re.search(rf"^  Minari sets +{minari_root} \(not there yet\)$", text, re.M)
    assert re.search(r"^  MUJOCO_GL +egl$", text, re.M)
    assert [line for line in text.splitlines() if line and not line.startswith(" ")] == [f"{name}:" for name in info.sections()]


def test_a_package_that_cannot_be_imported_is_named(monkeypatch):
    found = importlib.import_module

    def broken(name, *args):
        if name == "mujoco":
            raise OSError("libGL.so.1: cannot open shared object file")
        return found(name, *args)

    monkeypatch.setattr(importlib, "import_module", broken)
    versions = info.sections()["versions"]
    assert versions["mujoco"].endswith("importing it fails: OSError: libGL.so.1: cannot open shared object file")
    assert "fails" not in versions["torch"]


def test_what_cannot_be_found_out_says_why(monkeypatch):
    monkeypatch.setattr("edp_lightning.command_line.info.processor", lambda: 1 / 0)
    monkeypatch.setenv("CXX", "no-such-compiler")
    sections = info.sections()
    assert sections["devices"] == {"failed": "ZeroDivisionError: division by zero"}
    assert sections["acceleration"]["model.compile"] == "no: there is no C++ compiler no-such-compiler; it goes on without"
