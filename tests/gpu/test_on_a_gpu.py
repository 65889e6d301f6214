"""What only a GPU can show: ``python -m pytest -m gpu``. Written without one at hand; none of it is measured yet."""

import pytest
import torch

from benchmarks.gpu_steps import Row, contender, losses, waits
from benchmarks.step_data import Data
from edp_lightning.runs.checkpoint_io import read_checkpoint
from tests.test_resume import flat

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]

ON_GPU = ["--trainer.accelerator=gpu"]


def test_a_recorded_step_computes_what_the_usual_one_does():
    gpu, row = torch.device("cuda", 0), Row(10, True, "tf32")
    recorded, usual = (losses(gpu, form, 50, row) for form in (True, False))
    for step, (ours, theirs) in enumerate(zip(recorded, usual, strict=True)):
        assert ours == pytest.approx(theirs, rel=1e-5, abs=1e-5), step


@pytest.mark.parametrize("name", ["eager", "compiled", "captured"])
def test_a_step_never_waits_for_the_device(name):
    gpu = torch.device("cuda", 0)
    step = contender(name, Row(10, True, "bf16"), Data(gpu, lambda: iter(())), gpu)
    for _ in range(6):
        step()
    assert waits(step, gpu) == 0


def test_deterministic_runs_are_the_same_bits(toy_set, command):
    options = [*ON_GPU, "--trainer.deterministic=true", "--trainer.max_steps=12", "--model.reverse_variance=matched"]
    one, two = (command("fit", *options, run_name=name) for name in ("one", "two"))
    a, b = (dict(flat(read_checkpoint(folder / "checkpoints" / "last.ckpt")["state_dict"])) for folder in (one, two))
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def test_a_run_goes_from_gpu_to_cpu_and_back(toy_set, command):
    compiled = [*ON_GPU, "--model.compile=true"]
    command("fit", *compiled, "--trainer.max_steps=7")
    command("fit", "--trainer.max_steps=12", "--ckpt_path=last")
    folder = command("fit", *compiled, "--trainer.max_steps=20", "--ckpt_path=last")
    checkpoint = read_checkpoint(folder / "checkpoints" / "last.ckpt")
    assert checkpoint["global_step"] == 20
    assert {group["capturable"] for state in checkpoint["optimizer_states"] for group in state["param_groups"]} == {False}


def test_an_evaluation_in_the_background_shares_the_gpu(toy_set, command):
    folder = command("fit", *ON_GPU, "--trainer.max_steps=12", "--evaluation.background=true")
    assert (folder / "checkpoints" / "best.ckpt").exists()
