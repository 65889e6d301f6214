"""Speed of mean reversion over the diffusion steps.

Every schedule is a shape: the rates are scaled so that the last step keeps ``exp(-theta_bar_T) = 1e-3`` of the action.
"""

import math
from collections.abc import Callable
from typing import Any, Literal, get_args

import torch
from torch import Tensor

ScheduleName = Literal["cosine", "linear", "constant", "vp"]

TERMINAL_DECAY = 1e-3
"""Share of the clean action left after the last step, exp(-theta_bar_T)."""

_ON_CPU: dict[str, Any] = {"dtype": torch.float64, "device": "cpu"}
# Whatever the default device: float64 and deterministic sums are not to be had on each, and tables should be the same on all.


def _cosine(num_steps: int) -> Tensor:
    """Cosine shape of Nichol and Dhariwal (arXiv 2102.09672, eq. 17) as used for theta by arXiv 2402.04080."""
    n = num_steps + 1
    x = torch.linspace(0, n, n + 1, **_ON_CPU)
    kept = torch.cos((x / n + 0.008) / 1.008 * math.pi / 2) ** 2
    kept = kept / kept[0]
    return 1 - kept[1:-1]


def _linear(num_steps: int) -> Tensor:
    """Linear from 1e-4 to 2e-2, the shape of Ho et al. (arXiv 2006.11239, section 4)."""
    return torch.linspace(1e-4, 2e-2, num_steps, **_ON_CPU)


def _constant(num_steps: int) -> Tensor:
    return torch.ones(num_steps, **_ON_CPU)


def vp_betas(num_steps: int) -> Tensor:
    """Return the variances beta_t of the discretised variance-preserving SDE with rates from 0.1 to 10 (arXiv 2112.07804).

    Shape (num_steps,), float64; the schedule of Diffusion-QL.
    """
    t = torch.arange(1, num_steps + 1, **_ON_CPU)
    return -torch.expm1(-0.1 / num_steps - 0.5 * (10.0 - 0.1) * (2 * t - 1) / num_steps**2)


SCHEDULES: dict[ScheduleName, Callable[[int], Tensor]] = {
    "cosine": _cosine,
    "linear": _linear,
    "constant": _constant,
    "vp": vp_betas,
}


def step_rates(schedule: ScheduleName, num_steps: int) -> tuple[Tensor, float]:
    """Return the mean-reversion rates theta_t and the step size dt of a schedule.

    Args:
        schedule: Name of the schedule's shape.
        num_steps: Number of diffusion steps T, at least 2 (with a single step there is nothing to reverse).

    Returns:
        theta_1..theta_T, shape (num_steps,), float64 on the CPU, and dt with ``exp(-dt * sum(theta)) == 1e-3``.

    Raises:
        ValueError: If the schedule is unknown or ``num_steps`` is below 2.
    """
    if schedule not in SCHEDULES:
        raise ValueError(f"schedule must be one of {', '.join(get_args(ScheduleName))}; got {schedule!r}")
    if num_steps < 2:
        raise ValueError(f"num_diffusion_steps must be at least 2; got {num_steps}")
    theta = SCHEDULES[schedule](num_steps)
    return theta, -math.log(TERMINAL_DECAY) / float(theta.sum())
