"""A run on a CPU leaves the machine's GPUs alone."""

import pytest
import torch

from edp_lightning.runs.checkpoint_io import read_checkpoint


@pytest.mark.filterwarnings("ignore:GPU available but not used")
def test_a_run_on_a_cpu_never_starts_a_gpu(toy_set, command, monkeypatch):
    """A context costs half a gigabyte, and a GPU in exclusive mode refuses a second one."""

    def start():
        raise AssertionError("a run on a CPU started the GPU")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "_lazy_init", start)
    monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda: False)  # which starts nothing, but wants a driver
    folder = command("fit", "--trainer.max_steps=7")
    command("fit", "--trainer.max_steps=12", "--ckpt_path=last")
    checkpoint = read_checkpoint(folder / "checkpoints" / "last.ckpt")
    assert checkpoint["callbacks"]["RandomStates"]["ranks"][0]["cuda"] is None
