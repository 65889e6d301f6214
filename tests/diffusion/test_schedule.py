import math

import pytest
import torch

from edp_lightning.diffusion import SCHEDULES, step_rates


@pytest.mark.parametrize("schedule", list(SCHEDULES))
@pytest.mark.parametrize("num_steps", [2, 5, 10])
def test_every_schedule_ends_at_a_thousandth(schedule, num_steps):
    theta, dt = step_rates(schedule, num_steps)
    assert theta.shape == (num_steps,)
    assert (theta > 0).all()
    assert math.exp(-float(theta.sum()) * dt) == pytest.approx(1e-3, rel=1e-9)


def test_cosine_values_of_the_paper_at_five_steps():
    theta, dt = step_rates("cosine", 5)
    expected = torch.tensor([0.1975, 0.7040, 1.3858, 2.0632, 2.5573], dtype=torch.float64)
    torch.testing.assert_close(theta * dt, expected, atol=5e-5, rtol=0)


def test_unknown_schedule_and_single_step_are_refused():
    with pytest.raises(ValueError, match="cosine"):
        step_rates("cosin", 5)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 2"):
        step_rates("cosine", 1)
