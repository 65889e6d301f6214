"""Training from Python, with Lightning's own arguments."""

import numpy as np
import pytest
import torch

from edp_lightning.algorithms.idql import IDQL
from edp_lightning.callbacks import DataReport, EnvironmentEvaluation, NumericsGuard
from edp_lightning.data.loader import OneBatch, TransitionLoader
from edp_lightning.errors import UserError
from edp_lightning.runs.checkpoint_io import read_checkpoint
from tests.situations.sets import SeenBatches, data, model, read, robot_log, trainer


def straight(steps):
    """Return the rewards of the batches that so many gradient steps use."""
    loader = TransitionLoader(read(data()).table, 4, 5, seed=0)
    return [tuple(loader.batch(step).reward.tolist()) for step in range(steps)]


def test_loaders_made_anew_every_epoch_never_repeat_a_batch(tmp_path):
    seen = SeenBatches()
    trainer(tmp_path, 12, callbacks=[seen], reload_dataloaders_every_n_epochs=1).fit(model(), data())
    assert seen.rewards == straight(12)
    assert len(set(seen.rewards)) == 12


@pytest.mark.parametrize("stop", [5, 7])
def test_reloading_runs_resume_exactly(stop, tmp_path):
    again = {"reload_dataloaders_every_n_epochs": 1}
    first, rest = SeenBatches(), SeenBatches()
    trained = trainer(tmp_path, stop, callbacks=[first], **again)
    trained.fit(model(), data())
    trained.save_checkpoint(tmp_path / "half.ckpt")
    trainer(tmp_path, 12, callbacks=[rest], **again).fit(model(), data(), ckpt_path=tmp_path / "half.ckpt", weights_only=True)
    assert first.rewards + rest.rewards == straight(12)


def test_a_second_fit_of_one_trainer_goes_on_in_the_stream(tmp_path):
    seen = SeenBatches()
    module, fitter, batches = model(), trainer(tmp_path, 5, callbacks=[seen]), data()
    fitter.fit(module, batches)
    fitter.fit_loop.epoch_loop.max_steps = 9
    fitter.fit(module, batches)
    assert seen.rewards == straight(9)


def test_a_trainer_of_its_own_begins_the_stream(tmp_path):
    """A new run of the same module and data module is a new run."""
    batches, runs = data(), []
    for _ in range(2):
        runs.append(SeenBatches())
        trainer(tmp_path, 6, callbacks=[runs[-1]]).fit(model(), batches)
    assert runs[0].rewards == runs[1].rewards == straight(6)


def test_overfit_batches_serves_those_batches_only(tmp_path):
    seen = SeenBatches()
    trainer(tmp_path, 7, callbacks=[seen], overfit_batches=2).fit(model(), data())
    assert seen.rewards == (straight(2) * 4)[:7]


def test_a_share_of_an_endless_stream_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"overfit_batches 0\.5 is a share"):
        trainer(tmp_path, 7, overfit_batches=0.5).fit(model(), data())


@pytest.mark.parametrize(
    ("options", "other", "message"),
    [
        ({"discount": 0.9}, {"n_step": 3}, r"discount 0\.9 and the data have discount 0\.99"),
        ({"seed": 1}, {}, "seed 1 and the data have seed 0"),
    ],
)
def test_model_and_data_share_discount_and_seed(options, other, message, tmp_path):
    with pytest.raises(UserError, match=message):
        trainer(tmp_path).fit(model(**options), data(**other))
    trainer(tmp_path, 1).fit(model(**options), data(**other, **options))


def test_a_discount_that_is_used_nowhere_may_differ(tmp_path):
    trainer(tmp_path, 1).fit(model(discount=0.9), data())


def test_a_loader_that_tells_no_units_is_refused_until_they_are_given(tmp_path):
    batches = read(data(robot_log(bound=10.0)))
    loader = TransitionLoader(batches.table, 4, 5, seed=0)
    module = model(observation_dim=2, action_dim=1)
    with pytest.raises(UserError, match=r"from_arrays takes arrays in memory.* or call model\.set_scales"):
        trainer(tmp_path).fit(module, train_dataloaders=loader, val_dataloaders=OneBatch())
    told = model(observation_dim=2, action_dim=1)
    told.set_scales(-10.0, [10.0], observation_mean=[1.0, 2.0])
    watching = [NumericsGuard(), DataReport(every_n_steps=1)]
    trainer(tmp_path, callbacks=watching, logger=True, log_every_n_steps=1).fit(
        told, train_dataloaders=loader, val_dataloaders=OneBatch()
    )
    with pytest.raises(UserError, match="asks the data module for the environment, and this trainer has no OfflineDataModule"):
        trainer(tmp_path, callbacks=[EnvironmentEvaluation()]).fit(told, loader, OneBatch())
    assert told.action_scaler(torch.tensor([[0.5]])).item() == 5.0
    assert told.normalizer(torch.tensor([1.0, 3.0])).tolist() == [0.0, 1.0]


def test_numbers_of_numpy_as_options_come_back_from_a_checkpoint(tmp_path):
    rate = np.logspace(-4, -3, 2)[0]
    module = model(actor_lr=rate, entropy="path", entropy_coef=np.float64(0.1), hidden_dims=np.array([4]))
    assert module.log_entropy_coef.dtype == torch.float32
    fitter = trainer(tmp_path, 1)
    fitter.fit(module, data(n_step=np.int64(1)))
    fitter.save_checkpoint(tmp_path / "a.ckpt")
    saved = read_checkpoint(tmp_path / "a.ckpt")["hyper_parameters"]
    assert (saved["actor_lr"], saved["hidden_dims"]) == (float(rate), [4])


def test_options_that_train_nothing_are_refused():
    with pytest.raises(UserError, match="gradient_clip_val bounds gradients and must be above 0, or null for no bound; got 0"):
        model(gradient_clip_val=0)
    with pytest.raises(UserError, match="time_features are sines and cosines, as many of each: make it even; got 129"):
        IDQL(time_features=129)
