"""k steps, stop, resume to n equals n steps, bit for bit."""

import shutil
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from edp_lightning.acceleration.native.perceptrons import instruction_sets
from edp_lightning.callbacks import LastCheckpoint
from edp_lightning.cli import main
from edp_lightning.runs.checkpoint_io import read_checkpoint
from tests.conftest import TINY
from tests.probes import CrashError, DrawGlobally
from tests.situations.sets import listening


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


def curves(folder):
    """Read a run's curves as TensorBoard shows them: scalars with values, histograms with their steps."""
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0, "histograms": 0})
    events.Reload()
    tags = events.Tags()
    found = {name: [(e.step, e.value) for e in events.Scalars(name)] for name in tags["scalars"]}
    timing = {name: [step for step, _ in found.pop(name)] for name in list(found) if name.startswith("speed/")}
    found |= {"steps of speed/evaluation_seconds": timing.get("speed/evaluation_seconds")}
    return found | {name: [e.step for e in events.Histograms(name)] for name in tags["histograms"]}


def best(folder):
    checkpoint = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)
    found = dict(flat({key: checkpoint[key] for key in ("state_dict", "optimizer_states", "global_step")}))
    return found | {"score": checkpoint["callbacks"]["BestCheckpoint"]["best_model_score"]}


def assert_same_run(resumed, straight):
    """Weights, optimizers, coefficient, position, best state and score, curves: all bit for bit."""
    for read in (state, best):
        a, b = read(straight), read(resumed)
        assert a.keys() == b.keys()
        assert [name for name in a if not torch.equal(a[name], b[name])] == []
    a, b = curves(straight), curves(resumed)
    assert a.keys() == b.keys()
    assert [name for name in a if a[name] != b[name]] == []


SETTINGS = ["--entropy_tuning.enabled=true", "--target_update.ema_start=4", "--data_report.every_n_steps=4"]


@pytest.mark.parametrize(
    ("stop", "option"),
    [(3, "--entropy_tuning.mode=scalar"), (5, "--entropy_tuning.mode=state"), (12, "--model.reverse_variance=matched")],
)
def test_a_run_that_ended_early_goes_on_bit_for_bit(stop, option, toy_set, command):
    goes_on_bit_for_bit(command, stop, [*SETTINGS, option])


def test_options_that_change_on_the_way_are_named(toy_set, command, caplog):
    command("fit", "--trainer.max_steps=5", "--data.n_step=3", "--model.actor_lr=1e-4")
    with listening(caplog) as said:
        command("fit", "--trainer.max_steps=6", "--data.n_step=3", "--model.actor_lr=1e-4", "--ckpt_path=last")
        assert "going on with other options" not in said()
        command("fit", "--trainer.max_steps=7", "--ckpt_path=last")
    assert "those of the checkpoint (in brackets): model.actor_lr 0.0003 (0.0001), data.n_step 1 (3)" in said()


@pytest.mark.skipif(not instruction_sets(), reason="needs a processor with bfloat16")
def test_a_run_with_fused_passes_goes_on_bit_for_bit(toy_set, command, monkeypatch):
    monkeypatch.setattr(
        "edp_lightning.algorithms.offline_algorithm.compile_or_eager", lambda function, *_: function
    )  # takes half a minute
    goes_on_bit_for_bit(command, 6, [*SETTINGS, "--model.compile=true", "--model.hidden_precision=bfloat16"])


def goes_on_bit_for_bit(command, stop, options):
    whole = command("fit", "--trainer.max_steps=14", *options, run_name="whole")
    parts = command("fit", f"--trainer.max_steps={stop}", *options, run_name="parts")
    assert state(parts)["/global_step"].item() == stop
    command("fit", "--trainer.max_steps=14", "--ckpt_path=last", *options, run_name="parts")
    assert_same_run(parts, whole)


CUTS = {
    "each epoch": [
        ("on_train_batch_end", 9),
        ("on_validation_start", 10),
        ("on_validation_end", 10),
        ("on_train_epoch_end", 10),
    ],
    "inside epochs": [
        ("on_train_batch_start", 7),
        ("on_validation_end", 6),
        ("on_save_checkpoint", 9),
        ("on_train_epoch_start", 10),
    ],
}
PERIODS = {
    "each epoch": ["--last_checkpoint.every_n_steps=5"],
    "inside epochs": [
        "--last_checkpoint.every_n_steps=3",
        "--trainer.val_check_interval=3",
        "--trainer.check_val_every_n_epoch=null",
    ],
}


@pytest.mark.parametrize("periods", list(CUTS))
def test_a_run_cut_off_at_any_point_goes_on_bit_for_bit(periods, toy_set, command):
    """Also where an evaluation is due: it is neither missed nor repeated, and the best state stays the best."""
    options = [*SETTINGS, *PERIODS[periods], "--trainer.max_steps=14"]
    whole = command("fit", *options, run_name="whole")
    for hook, step in CUTS[periods]:
        name = f"{hook}-{step}"
        probe = [f"--trainer.callbacks.hook={hook}", f"--trainer.callbacks.step={step}"]
        with pytest.raises(CrashError):
            command("fit", *options, "--trainer.callbacks=tests.probes.CrashAt", *probe, run_name=name)
        assert_same_run(command("fit", *options, "--ckpt_path=last", run_name=name), whole)


def test_a_run_cut_off_between_its_two_checkpoints(toy_set, command, monkeypatch):
    """best.ckpt of step 10 is written, last.ckpt still says 5: the evaluation of step 10 happens again and wins again."""
    whole = command("fit", "--trainer.max_steps=14", *SETTINGS, run_name="whole")
    on_validation_end = LastCheckpoint.on_validation_end

    def crash(self, trainer, pl_module):
        if trainer.global_step == 10:
            raise CrashError
        on_validation_end(self, trainer, pl_module)

    with monkeypatch.context() as patch:
        patch.setattr(LastCheckpoint, "on_validation_end", crash)
        with pytest.raises(CrashError):
            command("fit", "--trainer.max_steps=14", *SETTINGS, run_name="parts")
    assert_same_run(command("fit", "--trainer.max_steps=14", "--ckpt_path=last", *SETTINGS, run_name="parts"), whole)


def test_a_run_cut_off_before_its_first_checkpoint_starts_again(toy_set, command):
    whole = command("fit", "--trainer.max_steps=7", *SETTINGS, run_name="whole")
    probe = ["--trainer.callbacks.hook=on_train_batch_end", "--trainer.callbacks.step=3"]
    with pytest.raises(CrashError):
        command("fit", "--trainer.max_steps=7", *SETTINGS, "--trainer.callbacks=tests.probes.CrashAt", *probe, run_name="parts")
    assert_same_run(command("fit", "--trainer.max_steps=7", "--ckpt_path=last", *SETTINGS, run_name="parts"), whole)


def test_the_global_random_streams_go_on(toy_set, command):
    """Nothing here draws from them, but a user's callback may."""
    extra = ["--trainer.callbacks=tests.probes.DrawGlobally"]
    runs = []
    for name, stops in (("whole", [12]), ("parts", [7, 12])):
        DrawGlobally.drawn.clear()
        for stop in stops:
            resume = ["--ckpt_path=last"] if stop != stops[0] else []
            command("fit", f"--trainer.max_steps={stop}", *extra, *resume, run_name=name)
        runs.append(list(DrawGlobally.drawn))
    assert [step for step, *_ in runs[0]] == list(range(1, 13))
    assert runs[0] == runs[1]


def test_a_checkpoint_of_the_first_format_still_loads(toy_set, command, tmp_path):
    """The stored file was written at step 5 by the first version; its run goes on, and its policy acts."""
    sizes = ["--model.hidden_dims=[4]", "--model.num_critics=2", "--entropy_tuning.enabled=true"]
    stored = Path(__file__).parent / "fixtures" / "format_1.ckpt"
    assert stored.stat().st_size < 100_000
    assert read_checkpoint(stored)["edp_lightning_format"] == 1
    command("validate", *sizes, f"--ckpt_path={shutil.copy(stored, tmp_path)}")
    target = tmp_path / "runs" / "edp-toy-two-step-v0" / "t-seed0" / "checkpoints" / "last.ckpt"
    target.parent.mkdir(parents=True)
    shutil.copy(stored, target)
    folder = command("fit", *sizes, "--trainer.max_steps=9", "--ckpt_path=last")
    new = read_checkpoint(folder / "checkpoints" / "last.ckpt")
    assert new["global_step"] == 9
    adam = new["callbacks"]["EntropyCoefficientTuning"]["optimizer"]["state"][0]
    assert adam["step"].item() == 9


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


def test_options_that_optimizers_and_buffers_remember_are_those_of_this_run(toy_set, command):
    """What a checkpoint holds of them is the earlier run's: a branch trains with what its command line says."""

    def last(folder):
        return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)

    tuned = command("fit", "--trainer.max_steps=5", "--entropy_tuning.enabled=true", "--entropy_tuning.lr=0.1", run_name="a")
    branch = ["fit", "--trainer.max_steps=6", f"--ckpt_path={tuned / 'checkpoints' / 'last.ckpt'}"]
    fixed = last(command(*branch, "--model.entropy_coef=0.3", run_name="b"))
    assert fixed["state_dict"]["log_entropy_coef"] == torch.tensor(0.3).log()
    slower = last(command(*branch, "--entropy_tuning.enabled=true", "--entropy_tuning.lr=0.01", run_name="c"))
    assert slower["callbacks"]["EntropyCoefficientTuning"]["optimizer"]["param_groups"][0]["lr"] == 0.01

    idql = ["--model=IDQL", "--model.hidden_dims=[8]", "--model.width=8", "--model.num_blocks=1"]
    options = [word for word in TINY if not word.startswith("--model")] + [
        f"--data.dataset={toy_set}", f"--output={tuned.parent.parent}", *idql,
    ]  # fmt: skip
    main(["fit", *options, "--trainer.max_steps=5"])
    main(["fit", *options, "--trainer.max_steps=6", "--ckpt_path=last", "--model.weight_decay=0.1"])
    groups = [state["param_groups"][0] for state in last(tuned.parent / "default-seed0")["optimizer_states"]]
    assert [group["weight_decay"] for group in groups if group["weight_decay"]] == [0.1]


def test_weights_are_not_judged_by_options_that_give_them_another_meaning(toy_set, command, capsys, caplog):
    folder = command("fit", "--trainer.max_steps=5", "--model.num_diffusion_steps=4")
    for option in ("--model.num_diffusion_steps=3", "--model.schedule=linear", "--model.clip_start=false"):
        with pytest.raises(SystemExit):
            command("test", "--ckpt_path=last", "--model.num_diffusion_steps=4", option)
        assert f"the checkpoint has {option[8:].partition('=')[0]}" in capsys.readouterr().err
    assert not (folder / "test_last.json").exists()
    with listening(caplog) as said:
        command("test", "--ckpt_path=last", "--model.num_diffusion_steps=4", "--model.num_candidates=1")
    assert "acting with other options than those of the checkpoint (in brackets): model.num_candidates 1" in said()
