"""Two ranks compute what one process with the joined batch computes."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from lightning.pytorch.strategies import FSDPStrategy

from edp_lightning.algorithms.entropy_diffusion import EntropyDiffusionPolicy
from edp_lightning.errors import UserError
from edp_lightning.runs.checkpoint_io import read_checkpoint
from tests.conftest import TINY, finish, scalars
from tests.test_resume import flat, state

ROOT = Path(__file__).parents[1]
TWO_RANKS = ["--trainer.devices=2", "--trainer.strategy=ddp", "--data.batch_size=4"]
OPTIONS = ["--model.entropy=bridge", "--entropy_tuning.enabled=true", "--model.max_q_backup=true"]
PER_STATE = ["--model.entropy=path", "--entropy_tuning.mode=state"]


def arguments(output: Path, run_name: str, subcommand: str = "fit") -> list[str]:
    return [
        *("-m", "edp_lightning", subcommand, "--data.dataset=edp/toy/two-step-v0"),
        *(f"--output={output}", f"--run_name={run_name}", *TINY),
    ]


def start(command: list[str], launcher: Sequence[str] = ()) -> subprocess.Popen[str]:
    """Start processes of their own: ranks are made by running the command line again."""
    return subprocess.Popen(
        [sys.executable, *launcher, *command],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def fit(output: Path, run_name: str, *extra: str, subcommand: str = "fit", fails: bool = False) -> Any:
    """Run to the end and return the run's folder, or what it said on stderr if it is to fail."""
    process = start([*arguments(output, run_name, subcommand), *extra])
    try:
        message = process.communicate(timeout=300)[1]
    finally:
        process.kill()
    assert (process.returncode != 0) == fails, message[-3000:]
    return message if fails else output / "edp-toy-two-step-v0" / f"{run_name}-seed0"


WIDE = ["--model.hidden_dims=[64,64]", "--model.num_critics=16"]


MATCHED = pytest.param(["--model.reverse_variance=matched"], marks=pytest.mark.slow)


@pytest.mark.parametrize("variant", [PER_STATE, MATCHED], ids=["path", "matched"])
def test_two_ranks_of_128_equal_one_process_of_256(variant, toy_set, command, tmp_path):
    options = ["--trainer.max_steps=20", *OPTIONS, *WIDE, *variant]
    one = command("fit", *options, "--data.batch_size=256", "--model.entropy_states=6", run_name="one")
    two = fit(tmp_path / "runs", "two", *TWO_RANKS, *options, "--data.batch_size=128", "--model.entropy_states=3")
    a, b = state(one), state(two)
    assert a.keys() == b.keys()
    for name in a:
        if not a[name].is_floating_point():
            assert torch.equal(a[name], b[name]), name
            continue
        # Adam's moments have the scale of gradients, so that is their measure
        bound = 1e-4 * a[name].abs().max() if "/exp_avg" in name else 1e-6
        assert (a[name] - b[name]).abs().max() <= bound, name
    single, shared = scalars(one), scalars(two)
    assert [s for s, _ in shared["critic/loss"]] == list(range(20))
    for name in ("critic/loss", "actor/bc_loss", "actor/entropy", "actor/entropy_coef", "evaluation/return"):
        assert [v for _, v in shared[name]] == pytest.approx([v for _, v in single[name]], rel=1e-4), name
    assert single["data/global_batch_size"] == shared["data/global_batch_size"] == [(0, 256)]


@pytest.mark.slow
def test_ranks_hold_the_same_bits_and_resume_to_the_same_bits(toy_set, tmp_path):
    options = [*TWO_RANKS, *OPTIONS, "--data.steps_per_epoch=12", "--last_checkpoint.every_n_steps=5"]
    dump = ["--trainer.callbacks=tests.probes.DumpStates", f"--trainer.callbacks.folder={tmp_path}"]
    whole = fit(tmp_path / "runs", "whole", *options, "--trainer.max_steps=40", *dump)
    ranks = [dict(flat(torch.load(tmp_path / f"rank{rank}.pt", weights_only=True))) for rank in (0, 1)]
    assert [name for name in ranks[0] if not torch.equal(ranks[0][name], ranks[1][name])] == []
    fit(tmp_path / "runs", "parts", *options, "--trainer.max_steps=21")
    parts = fit(tmp_path / "runs", "parts", *options, "--trainer.max_steps=40", "--ckpt_path=last")
    a, b = state(whole), state(parts)
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def test_ranks_that_came_apart_are_not_saved(toy_set, tmp_path):
    """One message, at the first checkpoint after it happened; the one before stays."""
    extra = [*TWO_RANKS, "--trainer.max_steps=12", "--trainer.callbacks=tests.probes.DisturbRank"]
    message = fit(tmp_path / "runs", "apart", *extra, fails=True)
    assert "error: rank 1 and rank 0 no longer hold the same state_dict/critic." in message
    last = tmp_path / "runs" / "edp-toy-two-step-v0" / "apart-seed0" / "checkpoints" / "last.ckpt"
    assert read_checkpoint(last)["global_step"] == 5


@pytest.mark.slow
def test_spawned_ranks_compute_the_same(toy_set, tmp_path):
    popen, spawn = (
        fit(tmp_path / "runs", name, f"--trainer.strategy={name}", *TWO_RANKS[::2], *OPTIONS, "--trainer.max_steps=12")
        for name in ("ddp", "ddp_spawn")
    )
    a, b = state(popen), state(spawn)
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


@pytest.mark.slow
def test_a_test_gives_the_same_scores_on_one_and_two_ranks(toy_set, command, tmp_path):
    folder = command("fit", "--trainer.max_steps=20")
    records = []
    for ranks in ([], TWO_RANKS):
        fit(tmp_path / "runs", "t", *ranks, "--evaluation.num_test_episodes=7", "--ckpt_path=last", subcommand="test")
        records.append(json.loads((folder / "test_last.json").read_text()))
    assert records[0]["episodes"] == records[1]["episodes"]
    assert records[0]["scores"] == pytest.approx(records[1]["scores"], rel=1e-6)


@pytest.mark.slow
def test_two_nodes_started_by_torchrun_equal_two_ranks_on_one(toy_set, tmp_path):
    extra = [*OPTIONS, "--data.batch_size=4", "--trainer.strategy=ddp", "--trainer.max_steps=12"]
    one = fit(tmp_path / "runs", "one", "--trainer.devices=2", *extra)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    rendezvous = ["--nnodes=2", "--nproc_per_node=1", "--master_addr=127.0.0.1", f"--master_port={port}"]
    nodes = [
        start(
            [*arguments(tmp_path / "runs", "nodes"), "--trainer.num_nodes=2", "--trainer.devices=1", *extra],
            ["-m", "torch.distributed.run", *rendezvous, f"--node_rank={rank}"],
        )
        for rank in (0, 1)
    ]
    for node in nodes:
        finish(node)
    a, b = state(one), state(one.parent / "nodes-seed0")
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


@pytest.mark.parametrize("strategy", ["fsdp", "deepspeed", "xla", "lightning.pytorch.strategies.FSDPStrategy"])
def test_a_sharding_strategy_is_refused_before_anything_starts(strategy, toy_set, command, capsys, tmp_path):
    with pytest.raises(SystemExit):
        command("fit", "--trainer.max_steps=5", f"--trainer.strategy={strategy}", "--trainer.devices=2")
    message = capsys.readouterr().err
    assert f"error: strategy {strategy} is not supported" in message
    assert "use trainer.strategy auto, ddp or ddp_spawn" in message
    assert not (tmp_path / "runs").exists()


def test_a_sharding_strategy_is_refused():
    module = EntropyDiffusionPolicy(2, 1, num_critics=2)
    module._trainer = SimpleNamespace(precision="32-true", strategy=FSDPStrategy())
    with pytest.raises(UserError, match="FSDPStrategy is not supported"):
        module.setup("fit")
