"""People without the command line: a plain Lightning trainer in a script or notebook, and callbacks of Lightning's."""

import lightning as L
import pytest
import torch
from lightning.pytorch.callbacks import (
    BatchSizeFinder,
    GradientAccumulationScheduler,
    LearningRateFinder,
    ModelCheckpoint,
    RichProgressBar,
    StochasticWeightAveraging,
    WeightAveraging,
)
from lightning.pytorch.loggers import CSVLogger

from edp_lightning.algorithms.entropy_diffusion import EntropyDiffusionPolicy
from edp_lightning.algorithms.necessary import missing_callbacks
from edp_lightning.callbacks import (
    EntropyCoefficientTuning,
    EnvironmentEvaluation,
    LastCheckpoint,
    NumericsGuard,
    RandomStates,
    TargetNetworkUpdate,
)
from edp_lightning.callbacks.forced import forced_beside
from edp_lightning.cli import main
from edp_lightning.data.datamodule import OfflineDataModule
from edp_lightning.errors import UserError
from edp_lightning.runs.checkpoint_io import FORMAT_KEY, read_checkpoint
from edp_lightning.runs.compatibility import check_trainer

SMALL = {"hidden_dims": [16, 16], "num_critics": 3, "num_diffusion_steps": 3, "num_candidates": 3}


def trainer(folder, steps: int, *callbacks: L.Callback, **options) -> L.Trainer:
    settings = {"logger": False, "enable_model_summary": False, "enable_progress_bar": False, "log_every_n_steps": 1}
    settings |= {"accelerator": "cpu", "max_steps": steps, "default_root_dir": folder, "enable_checkpointing": False}
    settings |= {"callbacks": list(callbacks), **options}
    return L.Trainer(**settings)


def policy(**options) -> EntropyDiffusionPolicy:
    L.seed_everything(0, verbose=False)
    return EntropyDiffusionPolicy(**SMALL, **options)


def data() -> OfflineDataModule:
    return OfflineDataModule("edp/toy/two-step-v0", batch_size=8, steps_per_epoch=5)


class Beginning(L.Callback):
    """Keeps the critics' first weights."""

    def on_train_start(self, trainer, pl_module):
        self.critic = [p.detach().clone() for p in pl_module.critic.parameters()]


def test_a_plain_trainer_moves_target_critics_and_the_ema_actor(toy_set, tmp_path):
    module, beginning = policy(), Beginning()
    plain = trainer(tmp_path, 1, beginning)
    plain.fit(module, data())
    pairs = zip(beginning.critic, module.critic.parameters(), module.target_critic.parameters(), strict=True)
    for first, critic, target in pairs:
        assert not torch.equal(first, critic)
        torch.testing.assert_close(target, 0.995 * first + 0.005 * critic)
    for online, average in zip(module.actor.parameters(), module.ema_actor.parameters(), strict=True):
        assert torch.equal(online, average)  # a copy, before the step at which averaging starts
    plain.fit_loop.epoch_loop.max_steps = 2
    plain.fit(module, data())
    assert sum(isinstance(callback, TargetNetworkUpdate) for callback in plain.callbacks) == 1  # type: ignore[attr-defined]


def test_a_plain_trainer_trains_what_the_command_line_trains(toy_set, tmp_path, command):
    options = ["--last_checkpoint.every_n_steps=12", "--evaluation.num_episodes=1"]
    straight = command("fit", "--trainer.max_steps=12", *options) / "checkpoints" / "last.ckpt"
    module = policy()
    trainer(tmp_path, 12).fit(module, data())
    expected = read_checkpoint(straight)["state_dict"]
    assert expected.keys() == module.state_dict().keys()
    assert [name for name, value in module.state_dict().items() if not torch.equal(value, expected[name])] == []


def test_options_of_ones_own_are_kept_and_nothing_is_done_twice(toy_set, tmp_path):
    class Slow(TargetNetworkUpdate):
        pass

    own = TargetNetworkUpdate(tau=0.5)
    path = ["edp_lightning.callbacks.TargetNetworkUpdate"]
    assert missing_callbacks(path, [own]) == []
    assert missing_callbacks(path, [Slow(), NumericsGuard()]) == []
    assert [type(callback) for callback in missing_callbacks(path, [NumericsGuard()])] == [TargetNetworkUpdate]
    with pytest.raises(UserError, match="2 callbacks TargetNetworkUpdate"):
        trainer(tmp_path, 1, own, Slow()).fit(policy(), data())


def test_guard_evaluation_and_exact_checkpoints_are_there_to_be_chosen(toy_set, tmp_path):
    """The documented list: it stops and goes on bit for bit, as runs of the command line do."""

    def chosen() -> list[L.Callback]:
        return [
            EntropyCoefficientTuning(enabled=True),
            NumericsGuard(),
            EnvironmentEvaluation(num_episodes=2),
            RandomStates(),
            LastCheckpoint(),
        ]

    modules = []
    for name, stops in (("whole", [9]), ("parts", [4, 9])):
        last = tmp_path / name / "checkpoints" / "last.ckpt"
        for stop in stops:
            modules.append(policy())
            run = trainer(tmp_path / name, stop, *chosen(), enable_checkpointing=True, num_sanity_val_steps=0)
            run.fit(modules[-1], data(), ckpt_path=last if last.exists() else None)
            assert "evaluation/return" in run.callback_metrics or stop < 5
    whole, resumed = modules[0].state_dict(), modules[-1].state_dict()
    assert [name for name in whole if not torch.equal(whole[name], resumed[name])] == []


@pytest.mark.filterwarnings("ignore:.*callbacks used to create the checkpoint")
def test_a_checkpoint_of_a_notebook_is_one_of_this_package(toy_set, tmp_path, command, capsys):
    logger = CSVLogger(tmp_path / "notebook")
    plain = trainer(tmp_path, 5, ModelCheckpoint(), logger=logger, enable_checkpointing=True)
    plain.fit(policy(), data())
    (path,) = (tmp_path / "notebook").rglob("*.ckpt")
    main(["test", f"--ckpt_path={path}", "--evaluation.num_test_episodes=2"])
    assert path.parents[1].joinpath(f"test_{path.stem}.json").exists()
    checkpoint = torch.load(path, weights_only=True)
    del checkpoint[FORMAT_KEY]  # as they were written before
    torch.save(checkpoint, path)
    assert read_checkpoint(path)[FORMAT_KEY] == 1
    folder = command("fit", f"--ckpt_path={path}", "--trainer.max_steps=7", run_name="on")
    assert read_checkpoint(folder / "checkpoints" / "last.ckpt")["global_step"] == 7


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": {}, "hyper_parameters": {"observation_dim": 2}, "global_step": 1},
        {"state_dict": {"normalizer.mean": torch.zeros(1)}, "hyper_parameters": {}, "global_step": 1},
        {FORMAT_KEY: "new"},
        [1],
    ],
)
def test_foreign_checkpoints_stay_foreign(content, tmp_path):
    torch.save(content, tmp_path / "x.ckpt")
    with pytest.raises(UserError, match="not a checkpoint of edp_lightning"):
        read_checkpoint(tmp_path / "x.ckpt")


@pytest.mark.parametrize(
    ("callback", "instead"),
    [
        (StochasticWeightAveraging(swa_lrs=0.1), "target_update"),
        (WeightAveraging(), "target_update"),
        (GradientAccumulationScheduler({0: 2}), "batch_size"),
        (BatchSizeFinder(), "batch_size"),
        (LearningRateFinder(), "critic_lr"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_callbacks_that_train_themselves_are_refused(callback, instead, tmp_path):
    with pytest.raises(UserError, match=f"{type(callback).__name__} .*{instead}"):
        check_trainer(trainer(tmp_path, 1, callback))


def test_clocks_of_several_devices_are_refused(tmp_path):
    with pytest.raises(UserError, match="as a time does not work with several devices"):
        check_trainer(trainer(tmp_path, 1, devices=2, val_check_interval="00:00:10:00"))


def test_a_callback_that_lightning_calls_misconfigured_is_one_message(toy_set, command, capsys):
    """Found by Lightning only in ``fit``: a probe that needs a logger."""
    with pytest.raises(SystemExit) as stop:
        command("fit", "--trainer.max_steps=5", "--trainer.callbacks=LearningRateMonitor", "--trainer.logger=false")
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert "Traceback" not in error
    assert "LearningRateMonitor" in error


def test_a_progress_bar_of_ones_own(toy_set, command):
    folder = command("fit", "--trainer.max_steps=5", "--trainer.callbacks=RichProgressBar")
    assert (folder / "checkpoints" / "last.ckpt").exists()


class Watcher(NumericsGuard):
    """A guard of the user's."""


def test_callbacks_of_ones_own_beside_the_forced_ones():
    from edp_lightning.callbacks import TrainingProgressBar

    forced = {"guard": NumericsGuard(), "target_update": TargetNetworkUpdate(), "progress_bar": TrainingProgressBar()}
    assert forced_beside(forced, []) == list(forced.values())
    assert forced_beside(forced, [], progress_bar=False) == [forced["guard"], forced["target_update"]]
    assert forced_beside(forced, [Watcher(), RichProgressBar()]) == [forced["target_update"]]
    with pytest.raises(UserError, match="in the section target_update"):
        forced_beside(forced, [TargetNetworkUpdate(tau=0.1)])


def test_a_forced_callback_that_is_listed_again_is_refused(toy_set, command, capsys):
    with pytest.raises(SystemExit):
        command("fit", "--trainer.max_steps=5", "--trainer.callbacks=TargetNetworkUpdate")
    assert "section target_update" in capsys.readouterr().err
