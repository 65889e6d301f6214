"""DPM-Solver: the diffusion's reverse as an ordinary differential equation, in few network passes (arXiv 2206.00927)."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from edp_lightning.diffusion.process import DiffusionProcess


class _Point(NamedTuple):
    """A moment of the diffusion: time, share of the clean action left, deviation of the noise, log(share / deviation)."""

    time: float
    decay: float
    std: float
    log_ratio: float


def solve(
    process: DiffusionProcess, predict_noise: Callable[[Tensor, Tensor], Tensor], start: Tensor, passes: int, clip: bool = True
) -> Tensor:
    """Follow the differential equation from time T to time 1, from a^T = ``start``.

    Single steps of third order, the last ones of second and first so that the network is asked ``passes`` times, on a grid
    uniform in time ("DPM-Solver-fast"). Between the process's times its logarithmic decay is interpolated linearly, and the
    network is asked at fractional times, as in Efficient Diffusion Policy.

    Args:
        process: The diffusion.
        predict_noise: Maps (a^t (batch, action_dim), time (1,), fractional) to noise estimates (batch, action_dim).
        start: Standard normal draws, shape (batch, action_dim).
        passes: Passes through the network, at least 1.
        clip: Change noise estimates so that one-step predictions of the action lie in [-1, 1].

    Returns:
        a^1 (batch, action_dim).
    """
    cumulative = process.cumulative_numbers

    def point(index: int) -> _Point:
        time = process.num_steps - index * (process.num_steps - 1) / passes
        low = min(int(time), process.num_steps - 1)
        log_decay = -(cumulative[low] + (time - low) * (cumulative[low + 1] - cumulative[low]))
        std = math.sqrt(-math.expm1(2 * log_decay))
        return _Point(time, math.exp(log_decay), std, log_decay - math.log(std))

    def noise(noisy: Tensor, at: _Point) -> Tensor:
        predicted = predict_noise(noisy, torch.full((1,), at.time, device=noisy.device))
        if not clip:
            return predicted
        table = int(at.time + 1e-6)
        decay, std = process.decay[table], process.std[table]
        return predicted.clamp((noisy - decay) / std, (noisy + decay) / std)

    current, done = start, 0
    for order in orders(passes):
        points = [point(done + index) for index in range(order + 1)]
        current, done = _step(current, points, noise), done + order
    return current


def orders(passes: int) -> list[int]:
    """Return the orders of the steps: threes, and at the end what brings the passes of all to ``passes``."""
    threes, rest = divmod(passes, 3)
    if rest == 0:
        return [3] * (threes - 1) + [2, 1]
    return [3] * threes + [rest]


def _step(current: Tensor, points: list[_Point], noise: Callable[[Tensor, _Point], Tensor]) -> Tensor:
    """Return the state at the last point from that at the first: DPM-Solver-1, -2 or -3 of the paper, by the intervals."""
    begin, end = points[0], points[-1]
    h = end.log_ratio - begin.log_ratio
    first = noise(current, begin)

    def drift(at: _Point) -> Tensor:
        """Return the state at a later point if the noise stayed as it is at the first."""
        return at.decay / begin.decay * current - at.std * math.expm1(at.log_ratio - begin.log_ratio) * first

    if len(points) == 2:
        return drift(end)
    r1 = (points[1].log_ratio - begin.log_ratio) / h
    change = noise(drift(points[1]), points[1]) - first
    if len(points) == 3:
        return drift(end) - 0.5 / r1 * end.std * math.expm1(h) * change
    r2 = (points[2].log_ratio - begin.log_ratio) / h
    curve = math.expm1(r2 * h) / (r2 * h) - 1
    third = drift(points[2]) - r2 / r1 * points[2].std * curve * change
    change = noise(third, points[2]) - first
    return drift(end) - end.std / r2 * (math.expm1(h) / h - 1) * change
