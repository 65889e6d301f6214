"""What runs tell of themselves while they go."""

from types import SimpleNamespace

import pytest
import torch

from edp_lightning.callbacks import SpeedMonitor, TrainingProgressBar


def test_speed_counts_training_alone(monkeypatch):
    """Steps of 0.1 s, and an evaluation of 50 s between the fourth and the fifth."""
    clock, logged = [0.0], []
    monkeypatch.setattr("edp_lightning.callbacks.speed.time.perf_counter", lambda: clock[0])
    logger = SimpleNamespace(log_metrics=lambda values, step: logged.append((step, values["speed/gradient_steps_per_second"])))
    trainer = SimpleNamespace(global_step=0, log_every_n_steps=3, loggers=[logger])
    monitor = SpeedMonitor()
    for step in range(9):
        if step == 4:
            monitor.on_validation_start(trainer, None)
            clock[0] += 50.0
        monitor.on_train_batch_start(trainer, None)
        clock[0] += 0.1
        trainer.global_step = step + 1
        monitor.on_train_batch_end(trainer, None)
    assert [step for step, _ in logged] == [2, 5, 8]
    assert [speed for _, speed in logged] == pytest.approx([10.0, 10.0, 10.0])


def test_the_bar_shows_what_was_logged_last():
    metrics = {"critic/loss": torch.tensor(0.12345), "evaluation/success_rate": torch.tensor(0.5), "else": torch.tensor(1.0)}
    shown = TrainingProgressBar().get_metrics(SimpleNamespace(callback_metrics=metrics), None)
    assert shown == {"critic": "0.123", "success": "0.5"}
