"""DPM-Solver on laws whose differential equation has a closed solution."""

import math

import pytest
import torch

from edp_lightning.diffusion import DDPM
from edp_lightning.diffusion.dpm_solver import _Point, _step, orders, solve


def between(process, time):
    """Share of the clean action and deviation of the noise at a fractional time."""
    low = min(int(time), process.num_steps - 1)
    cumulative = process.cumulative.double()
    decay = torch.exp(-(cumulative[low] + (time - low) * (cumulative[low + 1] - cumulative[low])))
    return decay, (1 - decay**2).sqrt()


@pytest.mark.parametrize(("spread", "passes", "tolerance"), [(0.0, 4, 1e-4), (0.3, 15, 0.12), (0.3, 480, 3e-4)])
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


@pytest.mark.parametrize(("order", "factor"), [(1, 4), (2, 8), (3, 16)])
def test_halving_a_step_divides_its_error_by_two_to_the_order_and_one(order, factor):
    process, spread, errors = DDPM(1000, "linear"), 0.3, []

    def noise(noisy, at):
        return at.std * noisy / (at.decay**2 * spread**2 + at.std**2)

    for width in (160, 80):
        points = []
        for index in range(order + 1):
            decay, std = (float(value) for value in between(process, 500 - width * index / order))
            points.append(_Point(500 - width * index / order, decay, std, math.log(decay / std)))
        deviations = [math.sqrt(at.decay**2 * spread**2 + at.std**2) for at in (points[0], points[-1])]
        start = torch.tensor([[1.5]], dtype=torch.float64)
        errors.append(float((_step(start, points, noise) - start * deviations[1] / deviations[0]).abs()))
    assert 0.8 < errors[0] / errors[1] / factor < 1.6


@pytest.mark.parametrize("passes", range(1, 17))
def test_orders_add_up(passes):
    assert sum(orders(passes)) == passes
    assert all(1 <= order <= 3 for order in orders(passes))


def test_fifteen_passes_are_four_steps_of_order_three_one_of_two_and_one_of_one():
    assert orders(15) == [3, 3, 3, 3, 2, 1]
