"""DPM-Solver on laws whose differential equation has a closed solution."""

import pytest
import torch

from edp_lightning.diffusion import DDPM
from edp_lightning.diffusion.dpm_solver import orders, solve


def between(process, time):
    """Share of the clean action and deviation of the noise at a fractional time."""
    low = min(int(time), process.num_steps - 1)
    cumulative = process.cumulative.double()
    decay = torch.exp(-(cumulative[low] + (time - low) * (cumulative[low + 1] - cumulative[low])))
    return decay, (1 - decay**2).sqrt()


@pytest.mark.parametrize(("spread", "passes", "tolerance"), [(0.0, 4, 1e-4), (0.3, 15, 5e-3), (0.3, 30, 1e-3)])
def test_gaussian_actions_keep_their_place_in_the_law(spread, passes, tolerance):
    """For N(m, v) actions a^t - decay_t m stays in proportion to the deviation of a^t; a point (v = 0) is solved exactly."""
    process, mean, variance = DDPM(1000, "linear"), 0.4, spread**2

    def predict_noise(noisy, t):
        decay, std = between(process, float(t))
        return std * (noisy - decay * mean) / (decay**2 * variance + std**2)

    start = torch.tensor([[-2.0, -0.5], [0.1, 1.5]], dtype=torch.float64)
    (last, last_std), (first, first_std) = between(process, 1000), between(process, 1)
    ratio = ((first**2 * variance + first_std**2) / (last**2 * variance + last_std**2)).sqrt()
    expected = first * mean + ratio * (start - last * mean)
    torch.testing.assert_close(solve(process, predict_noise, start, passes, clip=False), expected, rtol=0, atol=tolerance)


def test_the_network_is_asked_as_often_as_told_and_predictions_are_clipped():
    process, times = DDPM(100, "linear"), []

    def predict_noise(noisy, t):
        times.append(float(t))
        return torch.full_like(noisy, -50.0)

    end = solve(process, predict_noise, torch.zeros(2, 1), 7)
    assert len(times) == 7
    assert times == sorted(times, reverse=True)
    assert times[0] == 100
    torch.testing.assert_close(end, torch.ones(2, 1), rtol=0, atol=0.1)  # clipped to the box's edge all the way


@pytest.mark.parametrize("passes", range(1, 17))
def test_orders_add_up(passes):
    assert sum(orders(passes)) == passes
    assert all(1 <= order <= 3 for order in orders(passes))


def test_fifteen_passes_are_four_steps_of_order_three_one_of_two_and_one_of_one():
    assert orders(15) == [3, 3, 3, 3, 2, 1]
