"""When processes for environments are worth their start."""

from types import SimpleNamespace

import pytest
import torch

from edp_lightning.callbacks import EnvironmentEvaluation
from edp_lightning.evaluation import foreground


@pytest.mark.parametrize(
    ("stage", "run", "workers"),
    [
        ("test", {}, 0),
        ("fit", {"max_steps": 50_000}, 8),  # three evaluations at most, of 20 episodes with 700 steps
        ("fit", {"max_steps": 20_000}, 0),  # the last step's
        ("fit", {"max_steps": -1}, 8),
        ("fit", {"max_steps": 40_000, "val_check_interval": 40_000, "check_val_every_n_epoch": None}, 8),
        ("fit", {"max_steps": 39_999, "val_check_interval": 40_000, "check_val_every_n_epoch": None}, 0),
        ("fit", {"max_steps": 39_999, "val_check_interval": 0.5, "check_val_every_n_epoch": 1}, 8),
    ],
)
def test_workers_are_judged_by_the_whole_run(stage, run, workers, monkeypatch):
    """On a GPU an evaluation comes every half minute."""
    made = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(foreground, "WorkerEnvironments", lambda make, count, workers: made.append(workers))
    monkeypatch.setattr(foreground, "LocalEnvironments", lambda envs: made.append(0))
    environment = SimpleNamespace(max_episode_steps=700, make=lambda: None, lives_in_a_shell=False)
    data = SimpleNamespace(environment=environment, hparams={"steps_per_epoch": 1000})
    settings = {"max_steps": 0, "val_check_interval": 1.0, "check_val_every_n_epoch": 25, "callbacks": []}
    trainer = SimpleNamespace(**{**settings, "world_size": 1, "datamodule": data, **run})
    evaluation = EnvironmentEvaluation()
    evaluation.setup(trainer, None, stage)
    evaluation._foreground._environments(environment, 20)
    assert made == [workers]
