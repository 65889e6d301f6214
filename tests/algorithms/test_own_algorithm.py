"""An algorithm of the user's own: named on the command line, trained, cut off, resumed, tested."""

import json

import pytest
import torch
import yaml

from edp_lightning.cli import main
from edp_lightning.runs.checkpoint_io import read_checkpoint
from tests.cloning import LinearCloning
from tests.conftest import TINY
from tests.probes import CrashError

OWN = "tests.cloning.LinearCloning"
SIZES = [option for option in TINY if not option.startswith("--model.")]


@pytest.fixture
def own(tmp_path):
    def run(subcommand, *options, run_name="t"):
        out = [f"--output={tmp_path / 'runs'}", f"--run_name={run_name}", "--data.dataset=edp/toy/two-step-v0"]
        main([subcommand, *out, *SIZES, *options])
        return tmp_path / "runs" / "edp-toy-two-step-v0" / f"{run_name}-seed0"

    return run


def test_it_trains_is_cut_off_resumes_bit_for_bit_and_is_tested(toy_set, own, capsys):
    whole = own("fit", f"--model={OWN}", "--model.lr=0.1", "--trainer.max_steps=12", run_name="whole")
    probe = ["--trainer.callbacks=tests.probes.CrashAt", "--trainer.callbacks.hook=on_train_batch_end"]
    options = [f"--model.class_path={OWN}", "--model.lr=0.1", "--trainer.max_steps=12"]
    with pytest.raises(CrashError):
        own("fit", *options, *probe, "--trainer.callbacks.step=8", run_name="parts")
    parts = own("fit", *options, "--ckpt_path=last", run_name="parts")
    a, b = (read_checkpoint(folder / "checkpoints" / "last.ckpt") for folder in (whole, parts))
    assert a["algorithm"] == OWN
    assert a["global_step"] == b["global_step"] == 12
    for name, value in a["state_dict"].items():
        assert torch.equal(value, b["state_dict"][name]), name
    for name, value in a["optimizer_states"][0]["state"][0].items():
        assert torch.equal(value, b["optimizer_states"][0]["state"][0][name]), name

    config = yaml.safe_load((whole / "config.yaml").read_text())
    assert (config["model"]["class_path"], config["model"]["lr"]) == (OWN, 0.1)
    again = own("fit", f"--config={whole / 'config.yaml'}", "--run_name=again", run_name="again")
    c = read_checkpoint(again / "checkpoints" / "last.ckpt")
    assert all(torch.equal(value, c["state_dict"][name]) for name, value in a["state_dict"].items())

    own("test", "--ckpt_path", str(whole / "checkpoints" / "last.ckpt"))  # the checkpoint knows whose it is
    record = json.loads((whole / "test_last.json").read_text())
    assert record["algorithm"] == "LinearCloning"
    assert len(record["episodes"]) == 4
    with pytest.raises(SystemExit):
        own("fit", "--trainer.max_steps=20", "--ckpt_path=last", run_name="whole")
    assert "one of LinearCloning, not of EntropyDiffusionPolicy" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        own("validate", "--model=EntropyDiffusionPolicy", "--ckpt_path", str(whole / "checkpoints" / "last.ckpt"))
    assert "leave --model out" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("EntropyDifusion", "did you mean EntropyDiffusionPolicy"),
        ("no.such.Module", "cannot be imported"),
        ("tests.probes.CrashAt", "is no algorithm"),
        ("edp_lightning.algorithms.offline_algorithm.OfflineAlgorithm", "is incomplete: it lacks build, choose"),
    ],
)
def test_a_name_that_means_no_algorithm_is_refused(name, message, own, capsys):
    with pytest.raises(SystemExit):
        own("fit", f"--model={name}")
    assert message in capsys.readouterr().err


def test_the_policy_is_what_it_learned(toy_set, own):
    folder = own("fit", f"--model={OWN}", "--trainer.max_steps=3")
    module = LinearCloning.load_from_checkpoint(folder / "checkpoints" / "last.ckpt", weights_only=True)
    observation = torch.randn(4, 1)
    expected = module.action_scaler(module.actor(observation))
    torch.testing.assert_close(module.act(observation, [torch.Generator()] * 4), expected)
