"""The overlay for machines with a GPU, and that ``make train`` takes it where there is one."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
PYTHON = """#!/bin/sh
case "$1" in
  -c) exit {no_gpu} ;;
  *) echo "$@" ;;
esac
"""


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(("gpu", "overlay"), [(True, "configs/gpu.yaml"), (False, "configs/antmaze/cpu.yaml")])
def test_make_train_takes_the_overlay_of_the_machine(gpu, overlay, tmp_path):
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    python.write_text(PYTHON.format(no_gpu=int(not gpu)))
    python.chmod(0o755)
    done = subprocess.run(
        [
            "make",
            "--no-print-directory",
            "-o",
            f"{tmp_path}/bin/.installed",
            "train",
            f"VENV={tmp_path}",
            "ARGS=--seed_everything 1",
        ],
        cwd=ROOT,
        env={**os.environ, "MAKEFLAGS": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    message, command = done.stdout.splitlines()[-2:]
    assert command == f"-m edp_lightning fit --config configs/antmaze.yaml --config {overlay} --seed_everything 1"
    assert f"adding {overlay}" in message


def test_the_overlay_is_one_for_any_config(toy_set, command):
    """Here everything of it but the GPU, and but the compiler, which takes a minute."""
    precision = torch.get_float32_matmul_precision()
    try:
        folder = command(
            *(
                "fit",
                "--config=configs/gpu.yaml",
                "--trainer.max_steps=6",
                "--model.compile=false",
                "--trainer.accelerator=cpu",
            ),
            "--model.hidden_precision=float32",
        )
        assert torch.get_float32_matmul_precision() == "high"
    finally:
        torch.set_float32_matmul_precision(precision)
    config = (folder / "config.yaml").read_text()
    assert "min_seconds: 60.0" in config
    assert "background: true" in config
    assert (folder / "checkpoints" / "last.ckpt").exists()
