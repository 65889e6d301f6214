"""Two ranks compute what one process with the joined batch computes."""

import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.strategies import FSDPStrategy

from edp_lightning.errors import UserError
from edp_lightning.module import EntropyDiffusionPolicy
from tests.conftest import TINY, scalars
from tests.test_resume import state

ROOT = Path(__file__).parents[1]
TWO_RANKS = ["--trainer.devices=2", "--trainer.strategy=ddp", "--data.batch_size=4"]
OPTIONS = ["--model.entropy=bridge", "--entropy_tuning.enabled=true", "--model.max_q_backup=true"]
PER_STATE = ["--model.entropy=path", "--entropy_tuning.mode=state"]


def fit(output: Path, run_name: str, *extra: str) -> Path:
    """Train in processes of their own: ranks are started by running the command line again."""
    arguments = ["fit", "--data.dataset=edp/toy/two-step-v0", f"--output={output}", f"--run_name={run_name}", *TINY, *extra]
    done = subprocess.run(
        [sys.executable, "-m", "edp_lightning", *arguments],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return output / "edp-toy-two-step-v0" / f"{run_name}-seed0"


def test_two_ranks_equal_one_process_on_the_joined_batch(toy_set, command, tmp_path):
    options = ["--trainer.max_steps=20", *OPTIONS, *PER_STATE]
    one = command("fit", *options, "--model.entropy_states=6", run_name="one")
    two = fit(tmp_path / "runs", "two", *TWO_RANKS, *options, "--model.entropy_states=3")
    a, b = state(one), state(two)
    assert a.keys() == b.keys()
    for name in a:
        if "/step" in name or a[name].dtype in (torch.int64, torch.bool):
            assert torch.equal(a[name], b[name]), name
        elif "/exp_avg" not in name:
            torch.testing.assert_close(a[name], b[name], rtol=1e-6, atol=1e-6, msg=name)
    single, shared = scalars(one), scalars(two)
    assert [s for s, _ in shared["critic/loss"]] == list(range(20))
    for name in ("critic/loss", "actor/bc_loss", "actor/entropy", "actor/entropy_coef", "evaluation/return"):
        assert [v for _, v in shared[name]] == pytest.approx([v for _, v in single[name]], rel=1e-4), name


def test_two_ranks_resume_bit_for_bit(toy_set, tmp_path):
    whole = fit(tmp_path / "runs", "whole", *TWO_RANKS, *OPTIONS, "--trainer.max_steps=12")
    fit(tmp_path / "runs", "parts", *TWO_RANKS, *OPTIONS, "--trainer.max_steps=7")
    parts = fit(tmp_path / "runs", "parts", *TWO_RANKS, *OPTIONS, "--trainer.max_steps=12", "--ckpt_path=last")
    a, b = state(whole), state(parts)
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def test_a_sharding_strategy_is_refused():
    module = EntropyDiffusionPolicy(2, 1, num_critics=2)
    module._trainer = SimpleNamespace(precision="32-true", strategy=FSDPStrategy())
    with pytest.raises(UserError, match="FSDPStrategy is not supported"):
        module.setup("fit")
