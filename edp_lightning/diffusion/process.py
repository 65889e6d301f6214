"""What every diffusion of actions here can do: a chain of Gaussian steps that shrinks the action and adds noise.

Step t multiplies by ``exp(-th_t)`` and adds noise of variance ``1 - exp(-2 th_t)``, so that N(0, I) is left as it is. The
steps' sizes th_1..th_T are all that processes differ in: the mean-reverting SDE has ``theta_t dt``, a DDPM
``-log(1 - beta_t) / 2``.

Times are ``t = 1..T`` as in the paper, with ``t = 0`` the clean action; every method takes t as a long tensor of shape
(batch,), so one call may mix times, or of shape (1,) for all rows.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn


class Gaussian(NamedTuple):
    """A diagonal Gaussian with one variance per row. ``mean``: (batch, action_dim); ``variance``: (batch, 1)."""

    mean: Tensor
    variance: Tensor

    def log_prob(self, value: Tensor) -> Tensor:
        """Return the log density of ``value`` (batch, action_dim), summed over the action dimensions: (batch,), nats."""
        squared = (value - self.mean).square() / self.variance
        return -0.5 * (squared + (2 * torch.pi * self.variance).log()).sum(-1)


class DiffusionProcess(nn.Module):
    """Transition laws of the steps, as buffers that follow the module's device.

    Args:
        step: Sizes th_1..th_T of the steps, above 0, shape (num_steps,), float64, on the CPU: tables are computed there and
            moved, so they are the same bits on every device.
    """

    step: Tensor
    cumulative: Tensor
    decay: Tensor
    std: Tensor
    posterior_noisy_coef: Tensor
    posterior_clean_coef: Tensor
    posterior_std: Tensor

    def __init__(self, step: Tensor) -> None:
        super().__init__()
        cumulative = torch.cat([step.new_zeros(1), step.cumsum(0)])  # thbar_0..thbar_T
        variance = -torch.expm1(-2 * cumulative)
        previous = variance[:-1]
        shrink = -torch.expm1(-2 * step)
        self.num_steps = len(step)
        # Index t of every table is time t; entry 0 of the per-step tables is never a step and holds a neutral value.
        tables = {
            "step": _with_front(step, 0.0),
            "cumulative": cumulative,
            "decay": torch.exp(-cumulative),
            "std": variance.sqrt(),
            "posterior_noisy_coef": _with_front(previous / variance[1:] * torch.exp(-step), 0.0),
            "posterior_clean_coef": _with_front(shrink / variance[1:] * torch.exp(-cumulative[:-1]), 1.0),
            "posterior_std": _with_front((previous * shrink / variance[1:]).sqrt(), 0.0),
        }
        # For arithmetic outside of tensors: a tracer cannot read numbers out of a buffer.
        self.cumulative_numbers: list[float] = cumulative.float().double().tolist()
        for name, table in tables.items():
            self.register_buffer(name, table.float().to(torch.get_default_device()), persistent=False)

    def marginal(self, clean: Tensor, t: Tensor) -> Gaussian:
        """Return q(a^t | a^0): mean a^0 exp(-theta_bar_t), variance 1 - exp(-2 theta_bar_t); eq. 4 of the paper."""
        return Gaussian(clean * _column(self.decay, t), _column(self.std, t).square())

    def signal_to_noise(self, t: Tensor) -> Tensor:
        """Return (exp(-theta_bar_t) / std_t)^2, the precision that a^t has as an estimate of a^0, for t >= 1: (batch,)."""
        return (self.decay[t] / self.std[t]).square()

    def diffuse(self, clean: Tensor, t: Tensor, noise: Tensor) -> Tensor:
        """Draw a^t from q(a^t | a^0) with the given standard normal noise. All actions: (batch, action_dim)."""
        return clean * _column(self.decay, t) + _column(self.std, t) * noise

    def transition(self, previous: Tensor, t: Tensor) -> Gaussian:
        """Return the forward step q(a^t | a^{t-1}): mean a^{t-1} exp(-th_t), variance 1 - exp(-2 th_t)."""
        rate = _column(self.step, t)
        return Gaussian(previous * torch.exp(-rate), -torch.expm1(-2 * rate))

    def bridge(self, first: Tensor, t: Tensor, last: Tensor) -> Tensor:
        """Return log q(a^T = last | a^t = first), summed over action dimensions: (batch,)."""
        elapsed = self.cumulative[-1] - _column(self.cumulative, t)
        return Gaussian(first * torch.exp(-elapsed), -torch.expm1(-2 * elapsed)).log_prob(last)

    def posterior(self, noisy: Tensor, t: Tensor, clean: Tensor) -> Gaussian:
        """Return q(a^{t-1} | a^t, a^0), the optimal reverse step (eq. 7 of the paper); its variance at t = 1 is 0."""
        mean = _column(self.posterior_noisy_coef, t) * noisy + _column(self.posterior_clean_coef, t) * clean
        return Gaussian(mean, _column(self.posterior_std, t).square())

    def reverse_step(self, noisy: Tensor, t: Tensor, clean: Tensor) -> Gaussian:
        """Return the law of a^{t-1} in the sampling chain, given the prediction ``clean`` of a^0: here the posterior."""
        return self.posterior(noisy, t, clean)

    def predict_clean(self, noisy: Tensor, t: Tensor, predicted_noise: Tensor) -> Tensor:
        """Return the one-step prediction a0hat = exp(theta_bar_t) (a^t - std_t f), shape (batch, action_dim)."""
        return (noisy - _column(self.std, t) * predicted_noise) / _column(self.decay, t)

    def likelihood_step(self, noisy: Tensor, t: Tensor, predicted_noise: Tensor) -> Tensor:
        """Return the Euler step of the reverse SDE without noise, the prediction of the paper's likelihood loss (MLL).

        ``a^t - (-theta_t a^t + 2 theta_t f / std_t) dt``, shape (batch, action_dim). At few steps its best fit differs from
        the exact posterior used by the sampler; see ``bc_loss`` of the model.
        """
        rate = _column(self.step, t)
        return noisy - (-rate * noisy + 2 * rate * predicted_noise / _column(self.std, t))


def _with_front(table: Tensor, value: float) -> Tensor:
    return torch.cat([table.new_full((1,), value), table])


def _column(table: Tensor, t: Tensor) -> Tensor:
    return table[t].unsqueeze(-1)
