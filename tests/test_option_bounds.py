"""Ranges of options hold from Python as from a config, in the same words."""

import pytest

from edp_lightning import callbacks
from edp_lightning.algorithms.entropy_diffusion import EntropyDiffusionPolicy
from edp_lightning.algorithms.idql import IDQL
from edp_lightning.data.datamodule import OfflineDataModule
from edp_lightning.errors import UserError


@pytest.mark.parametrize(
    ("create", "message"),
    [
        (lambda: EntropyDiffusionPolicy(num_critics=0), r"model.num_critics must be at least 1; got 0"),
        (lambda: EntropyDiffusionPolicy(hidden_dims=[]), r"model.hidden_dims must have at least one entry; got \[\]"),
        (lambda: EntropyDiffusionPolicy(hidden_dims=[8, 0]), r"model.hidden_dims must be at least 1; got 0"),
        (lambda: EntropyDiffusionPolicy(discount=1.5), r"model.discount must be at most 1; got 1.5"),
        (lambda: EntropyDiffusionPolicy(eta=float("nan")), r"model.eta must be a finite number; got nan"),
        (lambda: IDQL(time_hidden_dims=[]), r"model.time_hidden_dims must have at least one entry"),
        (lambda: OfflineDataModule("x", batch_size=0), r"data.batch_size must be at least 1; got 0"),
        (lambda: OfflineDataModule("x", action_clip_eps=0.6), r"data.action_clip_eps must be at most 0.5; got 0.6"),
        (lambda: callbacks.DataReport(every_n_steps=0), r"data_report.every_n_steps must be at least 1; got 0"),
        (lambda: callbacks.TargetNetworkUpdate(ema_start=-1), r"target_update.ema_start must be at least 0; got -1"),
        (lambda: callbacks.EntropyCoefficientTuning(lr=-1.0), r"entropy_tuning.lr must be at least 0; got -1"),
        (lambda: callbacks.TrainingProgressBar(refresh_rate=-1), r"progress_bar.refresh_rate must be at least 0; got -1"),
    ],
)
def test_a_value_outside_its_range_is_refused(create, message):
    with pytest.raises(UserError, match=message):
        create()
