"""The C++ example of the docs runs an exported file, where a compiler and onnxruntime's headers are."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from edp_lightning.export import command
from edp_lightning.export.decision import Decision
from tests.export.test_export import module_of, saved

EXAMPLE = Path(__file__).parents[2] / "docs" / "examples" / "decide.cpp"
HEADER = "onnxruntime_cxx_api.h"


def headers() -> Path | None:
    """Return the folder of onnxruntime's C++ headers; the wheel has the library alone."""
    chosen = os.environ.get("ONNXRUNTIME_INCLUDE")
    places = [Path(chosen)] if chosen else [Path("/usr/include/onnxruntime"), Path("/usr/local/include/onnxruntime")]
    return next((place for place in places if (place / HEADER).exists()), None)


def test_the_example_is_short_and_speaks_the_jsons_names():
    text = EXAMPLE.read_text()
    assert len(text.splitlines()) <= 60
    assert set(re.findall(r'outputs\[\] = \{"(\w+)"\}', text)) == {"action"}
    assert 'rfind("normal", 0)' in text
    laws = [(draw.name, draw.kind) for draw in Decision(module_of("EntropyDiffusionPolicy"), dynamic=False).draws]
    assert all(name.startswith(kind) and kind in ("normal", "uniform") for name, kind in laws)


def test_the_example_decides_as_the_package(tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime", reason="needs the extra export")
    include, compiler = headers(), shutil.which("c++") or shutil.which("g++")
    if include is None or compiler is None:
        pytest.skip("needs a C++ compiler and onnxruntime's headers (ONNXRUNTIME_INCLUDE)")
    (library,) = (Path(onnxruntime.__file__).parent / "capi").glob("libonnxruntime.so.*")
    for name in ("libonnxruntime.so", "libonnxruntime.so.1"):
        (tmp_path / name).symlink_to(library)
    program = [compiler, "-std=c++17", "-Wall", "-isystem", str(include), str(EXAMPLE), "-L", str(tmp_path), "-lonnxruntime"]
    subprocess.run([*program, "-o", str(tmp_path / "decide")], check=True)
    path = command.export(str(saved(module_of("BehaviorCloning"), tmp_path / "bc.ckpt")), "onnx")
    observation = np.linspace(-1, 1, 5).astype(np.float32)
    environment = os.environ | {"LD_LIBRARY_PATH": str(tmp_path)}

    def decide(*numbers: float, policy: Path = path) -> "subprocess.CompletedProcess[str]":
        words = [str(tmp_path / "decide"), str(policy), *map(str, numbers)]
        return subprocess.run(words, env=environment, capture_output=True, text=True, check=False)

    from edp_lightning.export.runtime import Policy

    np.testing.assert_allclose(
        [float(word) for word in decide(*observation).stdout.split()], Policy(path).act(observation), rtol=1e-4
    )
    wrong = decide(1.0)
    assert wrong.returncode == 2
    assert "takes 5 numbers; got 1" in wrong.stderr
    remembering = command.export(str(saved(module_of("DecisionTransformer"), tmp_path / "dt.ckpt")), "onnx")
    refused = decide(*observation, policy=remembering)
    assert refused.returncode == 2
    assert "this policy has a memory (reward)" in refused.stderr
