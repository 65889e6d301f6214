"""Errors on held-out rows, by hand; that whole runs log them is in tests/data/sources/test_ogbench.py."""

from types import SimpleNamespace

import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn

from edp_lightning.algorithms.inspection import Critics
from edp_lightning.callbacks.held_out import HeldOutErrors, errors
from edp_lightning.data.transitions import Batch


def algorithm(**changes):
    """Two critics: Q = s + a and s + a + 2; the policy acts 0.5 everywhere; observations are halved."""

    def q(observation, action):
        total = (observation + action)[:, 0]
        return torch.stack([total, total + 2])

    made = {
        "normalizer": lambda observation: observation / 2,
        "draw_actions": lambda observation, generator: torch.full((len(observation), 1), 0.5),
        "critics": Critics(q, q, lambda values: values.amin(dim=0)),
        "discount": 0.5,
    }
    return SimpleNamespace(**(made | changes))


ROWS = Batch(
    observation=torch.tensor([[2.0], [4.0]]),
    action=torch.tensor([[0.0], [1.0]]),
    reward=torch.tensor([1.0, -1.0]),
    next_observation=torch.tensor([[3.0], [9.0]]),
    terminated=torch.tensor([0.0, 1.0]),
    steps=torch.tensor([2.0, 1.0]),
)


def test_errors_by_hand():
    found = errors(algorithm(), ROWS)
    assert float(found["action_error"]) == pytest.approx((0.5**2 + 0.5**2) / 2)
    # targets 1 + 0.5^2 (1.5 + 0.5) = 1.5 and -1; means of the critics 1 + 0 + 1 = 2 and 2 + 1 + 1 = 4
    assert float(found["td_error"]) == pytest.approx((0.5**2 + 5**2) / 2)


def test_all_ranks_know_what_rank_0_calculated(monkeypatch):
    monkeypatch.setattr("edp_lightning.callbacks.held_out.gather_objects", lambda mine: [{"validation/td_error": 2.0}, mine])
    trainer = SimpleNamespace(
        datamodule=SimpleNamespace(validation_table=object(), table=object()),
        sanity_checking=False,
        is_global_zero=False,
        state=SimpleNamespace(fn=TrainerFn.FITTING),
        loggers=[],
    )
    known = {}
    module = SimpleNamespace(device=torch.device("cpu"), log_dict=lambda values, **_: known.update(values))
    HeldOutErrors().on_validation_epoch_end(trainer, module)
    assert known == {"validation/td_error": 2.0}


def test_what_an_algorithm_lacks_is_left_out():
    assert set(errors(algorithm(critics=None), ROWS)) == {"action_error"}
    assert errors(algorithm(draw_actions=lambda observation, generator: None), ROWS) == {}


def test_held_out_rows_are_the_validations_and_the_tables_the_trainings():
    class Table:
        def __init__(self, rows):
            self.kept, self.rows = rows, torch.zeros(2)

        def __len__(self):
            return 2

        def gather(self, index):
            return (column[index] for column in self.kept)

    seen = ROWS._replace(action=torch.tensor([[0.5], [0.5]]))  # what the policy does
    logged = {}
    logger = SimpleNamespace(log_metrics=lambda values, step: logged.update(values))
    trainer = SimpleNamespace(
        datamodule=SimpleNamespace(validation_table=Table(ROWS), table=Table(seen)),
        sanity_checking=False,
        is_global_zero=True,
        state=SimpleNamespace(fn=TrainerFn.FITTING),
        loggers=[logger],
        global_step=5,
    )
    module = algorithm(device=torch.device("cpu"), log_dict=lambda values, **_: None)
    HeldOutErrors().on_validation_epoch_end(trainer, module)
    assert logged["training/action_error"] == 0
    assert logged["validation/action_error"] == pytest.approx(0.25)
