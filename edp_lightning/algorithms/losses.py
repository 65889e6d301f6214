"""Loss terms as pure functions of Q-values, rewards and predictions. The ensemble axis comes first everywhere."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor

from edp_lightning.diffusion.process import DiffusionProcess
from edp_lightning.networks.ensemble import QAggregation, aggregate_q

MAX_ADVANTAGE_WEIGHT = 20.0
"""Bound on a row's weight before the mean is taken out, as in arXiv 1910.00177: one misjudged row is not the whole batch."""

BackupChoice = Literal["critic", "ensemble"]
QScale = Literal["batch", "state"]
QTimeWeight = Literal["uniform", "signal"]

LEAST_STATE_SCALE = 0.1
"""Least magnitude that ``state_scales`` divides by, in mean magnitudes: a fallen robot's value is nothing but error."""


class CriticTerms(NamedTuple):
    """The critics' side of a gradient step on this rank's batch.

    Attributes:
        loss: Mean squared TD error over critics and batch, scalar.
        q: Q-values, shape (num_critics, batch).
        target: Their targets, shape (num_critics, batch).
        gradients: Gradients of the loss in the order of the critics' parameters.
    """

    loss: Tensor
    q: Tensor
    target: Tensor
    gradients: list[Tensor]


class ActorTerms(NamedTuple):
    """What the actor loss of this rank's batch is put together from; scalars unless a shape is given.

    Attributes:
        bc_loss: Behaviour loss.
        value: Mean pessimistic value of the one-step predictions, rows weighted by :func:`q_time_weights`, and divided by
            :func:`state_scales` if they are.
        value_scale: Mean magnitude of their Q-values, or 1 for relative ones.
        entropy: Entropy estimate of each state, shape (entropy_states,).
        entropy_scale: What the entropy term is divided by: the estimates' mean magnitude, or 1 for a term in nats.
        entropy_coef: Coefficient alpha, one scalar or one per state, shape (entropy_states,); a constant.
        squared_errors: See ``squared_error_sums``; None where the sampling chain does not use it.
    """

    bc_loss: Tensor
    value: Tensor
    value_scale: Tensor
    entropy: Tensor
    entropy_scale: Tensor
    entropy_coef: Tensor
    squared_errors: Tensor | None


def td_target(reward: Tensor, terminated: Tensor, steps: Tensor, next_q: Tensor, discount: float) -> Tensor:
    """Return ``y^m = r + discount^k (1 - terminated) Qbar^m(s', a')``: each critic bootstraps from its own target.

    Args:
        reward: (n-step) rewards, shape (batch,).
        terminated: 1 where the episode truly ended, else 0, shape (batch,). A time limit is not an end.
        steps: Number of environment steps k between s and s', shape (batch,).
        next_q: Target critics at s', shape (num_critics, batch), or one value for all of them, shape (batch,).
        discount: Discount per environment step, in [0, 1].

    Returns:
        Targets, of the shape of ``next_q``.
    """
    return reward + discount**steps * (1 - terminated) * next_q


def max_over_actions(q: Tensor, num_actions: int) -> Tensor:
    """Return each critic's maximum over the actions sampled per state, for the max-Q backup (arXiv 2006.04779 via CQL code).

    Args:
        q: Q-values, shape (num_critics, batch * num_actions), the actions of one state next to each other.
        num_actions: Number of actions per state.

    Returns:
        Maxima, shape (num_critics, batch).
    """
    return q.reshape(len(q), -1, num_actions).amax(dim=-1)


def best_of_actions(q: Tensor, num_actions: int, aggregation: QAggregation, lcb_coef: float) -> Tensor:
    """Return every critic's value of the one action per state that the ensemble together would choose.

    The backup of the policy that is executed: candidates, of which the pessimistic value takes the best. A critic's own
    maximum (:func:`max_over_actions`) also collects that critic's errors.

    Args:
        q: Q-values, shape (num_critics, batch * num_actions), the actions of one state next to each other.
        num_actions: Number of actions per state.
        aggregation: See :func:`aggregate_q`.
        lcb_coef: See :func:`aggregate_q`.

    Returns:
        Values, shape (num_critics, batch).
    """
    by_state = q.reshape(len(q), -1, num_actions)
    chosen = aggregate_q(by_state, aggregation, lcb_coef).argmax(dim=-1, keepdim=True)
    return by_state.gather(-1, chosen.expand(len(q), -1, -1)).squeeze(-1)


def q_time_weights(process: DiffusionProcess, t: Tensor, weight: QTimeWeight) -> Tensor | None:
    """Return the weight of each row in the Q term by its diffusion time, shape (batch,); None where all are alike.

    ``signal``: the signal-to-noise ratio at t relative to t = 1. A behaviour loss on noise weighs the squared error of the
    one-step prediction by just that ratio, which falls by orders of magnitude from t = 1 to T: with all times alike, the Q term
    is negligible at the first and rules the last.

    Args:
        process: The diffusion process.
        t: Diffusion times, long, shape (batch,).
        weight: ``uniform`` or ``signal``.
    """
    if weight == "uniform":
        return None
    return process.signal_to_noise(t) / process.signal_to_noise(torch.ones_like(t[:1]))


def exponential_weights(advantage: Tensor, inverse_temperature: float, most: float) -> Tensor:
    """Return ``min(exp(inverse_temperature A), most)``, the weights of advantage-weighted regression (arXiv 1910.00177).

    Args:
        advantage: Advantages of the dataset's actions, shape (batch,).
        inverse_temperature: At least 0.
        most: Bound on a weight.
    """
    return (inverse_temperature * advantage).exp().clamp(max=most)


def advantage_weights(advantage: Tensor, scale: Tensor, inverse_temperature: float) -> Tensor:
    """Return ``exp(inverse_temperature A / scale)``, at most ``MAX_ADVANTAGE_WEIGHT``, shape (batch,), not yet of mean 1.

    As in advantage-weighted regression (arXiv 1910.00177), with the advantage in units of its mean magnitude: rewards may have
    any unit. For normally distributed advantages, 1 shifts their mean by 1.15 standard deviations.

    Args:
        advantage: Advantages of the dataset's actions, shape (batch,).
        scale: Their mean magnitude over the global batch, scalar.
        inverse_temperature: At least 0.
    """
    return exponential_weights(advantage / scale.clamp(min=1e-8), inverse_temperature, MAX_ADVANTAGE_WEIGHT)


def state_scales(q: Tensor, mean_magnitude: Tensor) -> Tensor:
    """Return what the value of each state is divided by where the Q term is relative, shape (batch,), a constant.

    Values that discount a distant reward differ by a fixed share of themselves from one step to the next. Divided by the mean
    magnitude in the batch (arXiv 2106.06860), this is a strong pull where values are high and next to none far from the reward;
    divided by the state's own, it is the same everywhere, whatever the discount.

    Args:
        q: Q-values, shape (num_critics, batch).
        mean_magnitude: Mean magnitude of Q-values over the global batch, scalar.
    """
    return torch.maximum(q.detach().abs().mean(dim=0), LEAST_STATE_SCALE * mean_magnitude)


def normalized(term: Tensor, scale: Tensor) -> Tensor:
    """Return ``-term / scale`` where ``scale`` is the mean magnitude of what ``term`` averages, as a constant.

    Args:
        term: Mean to be maximised, scalar.
        scale: Mean magnitude over the global batch, scalar; receives no gradient.
    """
    return -term / scale.detach()


def actor_loss(terms: ActorTerms, value_scale: Tensor, entropy_scale: Tensor, eta: float) -> Tensor:
    """Return ``L_bc + eta L_q + alpha L_ent`` (arXiv 2402.04080, eq. 13 and section 3.3), a scalar.

    Args:
        terms: Terms of this rank's batch.
        value_scale: Mean magnitude of the Q-values over the global batch, scalar.
        entropy_scale: ``terms.entropy_scale`` averaged over the global batch, scalar.
        eta: Weight of the Q term; 0 leaves it out.
    """
    loss = terms.bc_loss
    if eta != 0:
        loss = loss + eta * normalized(terms.value, value_scale)
    return loss + normalized((terms.entropy_coef * terms.entropy).mean(), entropy_scale)


def critic_metrics(terms: CriticTerms) -> dict[str, Tensor]:
    """Return what is logged about the critics of a gradient step, scalars by name."""
    q = terms.q
    return {
        "critic/q_mean": q.mean(),
        "critic/q_std": q.std(dim=0).mean() if len(q) > 1 else q.new_zeros(()),
        "critic/target": terms.target.mean(),
    }


def actor_metrics(terms: ActorTerms, eta: float) -> dict[str, Tensor]:
    """Return what is logged about the actor loss of a gradient step beside its value, scalars by name."""
    return {
        "actor/bc_loss": terms.bc_loss.detach(),
        "actor/q_loss": normalized(terms.value.detach(), terms.value_scale) if eta != 0 else terms.value,
        "actor/entropy": terms.entropy.detach().mean(),
        "actor/entropy_coef": terms.entropy_coef.mean(),
    }
