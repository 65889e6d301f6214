"""k steps, stop, resume to n equals n steps, bit for bit."""

import pytest
import torch

from tests.conftest import scalars


def flat(value, prefix=""):
    """Yield all tensors and numbers of a nested state with their names."""
    if isinstance(value, torch.Tensor):
        yield prefix, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from flat(item, f"{prefix}/{key}")
    elif isinstance(value, (list, tuple)):
        for index, item in enumerate(value):
            yield from flat(item, f"{prefix}/{index}")
    elif isinstance(value, (int, float)):
        yield prefix, torch.tensor(value)


def state(folder):
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    keys = ("state_dict", "optimizer_states", "OfflineDataModule", "global_step")
    found = dict(flat({key: checkpoint[key] for key in keys}))
    found |= dict(flat(checkpoint["callbacks"]["EntropyCoefficientTuning"]))
    return found


@pytest.mark.parametrize(("stop", "mode"), [(3, "scalar"), (5, "state"), (12, "scalar")])
def test_resumed_run_equals_an_uninterrupted_one_bit_for_bit(stop, mode, toy_set, command):
    options = ["--entropy_tuning.enabled=true", f"--entropy_tuning.mode={mode}", "--target_update.ema_start=4"]
    whole = command("fit", "--trainer.max_steps=14", *options, run_name="whole")
    parts = command("fit", f"--trainer.max_steps={stop}", *options, run_name="parts")
    assert state(parts)["/global_step"].item() == stop
    command("fit", "--trainer.max_steps=14", "--ckpt_path=last", *options, run_name="parts")
    a, b = state(whole), state(parts)
    assert a["/global_step"].item() == 14
    assert a.keys() == b.keys()
    different = [name for name in a if not torch.equal(a[name], b[name])]
    assert not different
    straight, resumed = scalars(whole), scalars(parts)
    assert [s for s, _ in resumed["critic/loss"]] == list(range(14))
    assert resumed["critic/loss"] == straight["critic/loss"]


def test_resume_continues_the_learned_coefficient(toy_set, command):
    options = ["--entropy_tuning.enabled=true", "--entropy_tuning.lr=0.1"]
    folder = command("fit", "--trainer.max_steps=5", *options)
    first = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    command("fit", "--trainer.max_steps=10", "--ckpt_path=last", *options)
    second = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    adam = [c["callbacks"]["EntropyCoefficientTuning"]["optimizer"]["state"][0]["step"].item() for c in (first, second)]
    assert adam == [5, 10]
    coefs = [c["state_dict"]["log_entropy_coef"].item() for c in (first, second)]
    assert coefs[0] != coefs[1]
