"""Histograms of what the critics make of the data, wherever the data are."""

from types import SimpleNamespace

import torch

from edp_lightning.callbacks import DataReport
from edp_lightning.callbacks.q_diagnostics import wide
from edp_lightning.data.tables.table import TransitionTable
from tests.dispatch import fake_gpu


def test_nothing_on_the_device_is_float64(monkeypatch):
    """Apple's MPS has none."""
    written = []
    monkeypatch.setattr(
        DataReport,
        "_writer",
        lambda *_: SimpleNamespace(add_histogram=lambda name, values, step: written.append((name, values))),
    )
    with fake_gpu() as operators:
        table = TransitionTable(torch.zeros(50, 11, device="cuda:0"), 3, 2)
        module = SimpleNamespace(
            device=torch.device("cuda:0"),
            normalizer=lambda observation: observation,
            critics=SimpleNamespace(online=lambda observation, action: observation.sum(1).expand(2, -1)),
            draw_actions=lambda observation, generator: observation[:, :2],
        )
        trainer = SimpleNamespace(global_step=4, datamodule=SimpleNamespace(table=table))
        DataReport(every_n_steps=4).on_train_batch_end(trainer, module)
        wide(torch.zeros(3, device="cuda:0"))
    assert torch.float64 not in {dtype for _, dtype in operators.on("cuda")}
    assert [name for name, _ in written] == ["critic/q_on_data", "critic/q_spread_on_data", "actor/action_0", "actor/action_1"]
    assert {values.device.type for _, values in written} == {"cpu"}
