"""bfloat16 where the machine multiplies fast in it."""

import pytest
import torch

from edp_lightning.acceleration import precision
from edp_lightning.acceleration.precision import bfloat16_speedup, hidden_dtype
from edp_lightning.algorithms.entropy_diffusion import EntropyDiffusionPolicy

CPU = torch.device("cpu")


def measured(monkeypatch, speedup):
    monkeypatch.setattr(precision, "bfloat16_speedup", lambda device: speedup)


@pytest.mark.parametrize(("speedup", "expected"), [(2.2, torch.bfloat16), (0.9, torch.float32), (0.02, torch.float32)])
def test_auto_takes_bfloat16_where_it_is_much_faster_and_says_so(monkeypatch, speedup, expected):
    measured(monkeypatch, speedup)
    said: list[str] = []
    monkeypatch.setattr(precision, "rank_zero_info", said.append)
    module = EntropyDiffusionPolicy(5, 3, num_critics=2, hidden_precision="auto")
    module.configure_model()
    networks = (module.actor.network, module.ema_actor.network, module.critic, module.target_critic)
    assert {network.hidden_dtype for network in networks} == {expected}
    assert f"auto: {str(expected)[6:]}" in said[-1]


def test_a_slow_choice_is_obeyed_with_a_warning_that_names_the_fix(monkeypatch):
    measured(monkeypatch, 0.02)
    with pytest.warns(UserWarning, match=r"bfloat16 is slow here: its products take 50 times as long.*auto and float32"):
        assert hidden_dtype("bfloat16", CPU) == torch.bfloat16


def test_a_fast_choice_is_obeyed_in_silence_and_float32_measures_nothing(monkeypatch):
    measured(monkeypatch, 2.0)
    assert hidden_dtype("bfloat16", CPU) == torch.bfloat16
    measured(monkeypatch, None)
    assert hidden_dtype("float32", CPU) == torch.float32


def test_the_measurement_is_taken_once_and_leaves_the_random_state_alone():
    state = torch.get_rng_state()
    first = bfloat16_speedup(CPU)
    assert 0 < first < 1000
    assert bfloat16_speedup(CPU) == first
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    ("capability", "expected"), [((7, 5), torch.float32), ((8, 0), torch.bfloat16), ((12, 0), torch.bfloat16)]
)
def test_a_gpu_is_judged_by_its_capability_and_not_timed(monkeypatch, capability, expected):
    """A measurement may come out differently on another rank, or when the run is resumed."""
    measured(monkeypatch, None)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    gpu = torch.device("cuda", 0)
    assert hidden_dtype("auto", gpu) == expected
    if expected == torch.float32:
        with pytest.warns(UserWarning, match=r"slow here: this GPU has compute capability 7.5, fast products need 8.0"):
            hidden_dtype("bfloat16", gpu)
    else:
        assert hidden_dtype("bfloat16", gpu) == torch.bfloat16


def test_devices_that_nobody_measured_stay_in_float32():
    assert hidden_dtype("auto", torch.device("mps")) == torch.float32
