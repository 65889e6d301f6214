from types import SimpleNamespace

import pytest
import torch

from edp_lightning.callbacks import EntropyCoefficientTuning
from edp_lightning.errors import UserError


def module(entropy="path"):
    return SimpleNamespace(hparams={"entropy": entropy, "action_dim": 3}, log_entropy_coef=torch.tensor(-1.0))


def tuned(entropy, steps=5, **kwargs):
    callback, fake = EntropyCoefficientTuning(enabled=True, lr=0.1, **kwargs), module()
    callback.on_fit_start(None, fake)
    for _ in range(steps):
        callback.on_train_batch_end(None, fake, {"entropy": torch.tensor(entropy)}, None, 0)
    return fake.log_entropy_coef.item()


def test_coefficient_grows_below_the_target_and_shrinks_above():
    assert tuned(-4.0) > -1 > tuned(-2.0)  # the default target is -action_dim = -3
    assert tuned(-3.0) == -1
    assert tuned(0.0, target_entropy=1.0) > -1


def test_first_step_is_adams_step_on_the_objective():
    log_coef = torch.tensor(-1.0, requires_grad=True)
    adam = torch.optim.Adam([log_coef], lr=0.1)
    for _ in range(3):  # J = alpha (H - target), differentiated by torch
        adam.zero_grad()
        (log_coef.exp() * (-4.0 + 3.0)).backward()
        adam.step()
    assert tuned(-4.0, steps=3) == pytest.approx(log_coef.item())


def test_off_leaves_the_coefficient_and_has_no_state():
    callback, fake = EntropyCoefficientTuning(enabled=False), module()
    callback.on_fit_start(None, fake)
    callback.on_train_batch_end(None, fake, {"entropy": torch.tensor(5.0)}, None, 0)
    assert fake.log_entropy_coef.item() == -1
    assert callback.state_dict() == {}


def test_tuning_without_an_estimator_is_refused():
    with pytest.raises(UserError, match=r"model\.entropy"):
        EntropyCoefficientTuning(enabled=True).setup(None, module("none"), "fit")
