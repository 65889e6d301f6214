"""Conservative Q-learning: soft actor-critic whose critics are pushed down on actions that the data do not show."""

import copy
import math
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from edp_lightning.acceleration.compilation import preparation
from edp_lightning.algorithms.inspection import Critics, Follower, StepReport
from edp_lightning.algorithms.losses import td_target
from edp_lightning.algorithms.offline_algorithm import OfflineAlgorithm
from edp_lightning.algorithms.optimization import Learner, loss_gradients
from edp_lightning.data.transitions import Batch
from edp_lightning.networks.frozen import frozen
from edp_lightning.networks.initialization import ORTHOGONAL_SMALL_OUTPUT, SMALL_OUTPUT
from edp_lightning.networks.perceptron import StackedCritics
from edp_lightning.networks.scalar import Scalar
from edp_lightning.policies.gaussian import TanhGaussianPolicy

MAX_MULTIPLIER = 1e6
"""Largest Lagrange multiplier."""


class CQLNoise(NamedTuple):
    """Random numbers of one gradient step; ``samples`` is the number of actions per state of the conservative term.

    Attributes:
        action: For a ~ pi(s) of actor and temperature, shape (batch, action_dim).
        backup: For a' ~ pi(s') of the targets, shape (batch, backup actions, action_dim).
        uniform: Actions from U(-1, 1), shape (batch, samples, action_dim).
        current: For a ~ pi(s) of the conservative term, shape (batch, samples, action_dim).
        following: For a' ~ pi(s') of the conservative term, shape (batch, samples, action_dim).
    """

    action: Tensor
    backup: Tensor
    uniform: Tensor
    current: Tensor
    following: Tensor


class CQL(OfflineAlgorithm):
    """Conservative Q-learning (Kumar et al., NeurIPS 2020, arXiv 2006.04779), the form CQL(H) as in CORL's ``cql.py``.

    One batch is one gradient step of the temperature, the actor and the critics, all from the weights before it.

    Args:
        actor_hidden_dims: Widths of the actor's hidden layers (ReLU).
        critic_hidden_dims: Widths of both critics' hidden layers (ReLU).
        discount: Discount per environment step.
        conservative_weight: Weight w of the conservative term; 0 is soft actor-critic without entropy in the targets.
        num_sampled_actions: Uniform actions, actions of pi(s) and actions of pi(s') per state in the conservative term.
        lagrange_gap: Gap of the Lagrange version, which multiplies w by a learned factor; null for a fixed weight.
        conservative_min: Lower bound of a row's conservative term; null for none.
        max_q_backup: Targets are the maximum over several actions of the critics' minimum.
        num_backup_actions: Actions of that maximum.
        target_entropy: Entropy that the temperature aims at, in nats; minus the width of an action when not given.
        log_std_multiplier: Initial factor of the actor's logarithmic spread; it is trained.
        log_std_offset: Initial offset of the actor's logarithmic spread; it is trained.
        actor_lr: Adam learning rate of actor and temperature.
        critic_lr: Adam learning rate of the critics and of the Lagrange multiplier.
        kwargs: Options of every algorithm.
    """

    at_least = OfflineAlgorithm.at_least | {
        **dict.fromkeys(("actor_hidden_dims", "critic_hidden_dims", "num_sampled_actions"), 1),
        "conservative_weight": 0,
    }
    fixed_options = (*OfflineAlgorithm.fixed_options, "actor_hidden_dims", "critic_hidden_dims", "lagrange_gap")

    def __init__(
        self,
        actor_hidden_dims: Sequence[int] = (256, 256, 256),
        critic_hidden_dims: Sequence[int] = (256, 256, 256),
        discount: float = 0.99,
        conservative_weight: float = 10.0,
        num_sampled_actions: int = 10,
        lagrange_gap: float | None = None,
        conservative_min: float | None = None,
        max_q_backup: bool = False,
        num_backup_actions: int = 10,
        target_entropy: float | None = None,
        log_std_multiplier: float = 1.0,
        log_std_offset: float = -1.0,
        actor_lr: float = 3.0e-5,
        critic_lr: float = 3.0e-4,
        **kwargs: Any,
    ) -> None:
        actor_hidden_dims, critic_hidden_dims = list(actor_hidden_dims), list(critic_hidden_dims)
        super().__init__(**kwargs)

    def build(self, observation_dim: int, action_dim: int) -> None:
        """Create actor, critics with their targets, temperature and, for the Lagrange version, its multiplier."""
        h: Any = self.hparams
        sizes = observation_dim, action_dim
        spread = h.log_std_multiplier, h.log_std_offset
        self.actor = TanhGaussianPolicy(*sizes, h.actor_hidden_dims, SMALL_OUTPUT, *spread, hidden_dtype=self.hidden_dtype)
        self.critic = StackedCritics(*sizes, h.critic_hidden_dims, init=ORTHOGONAL_SMALL_OUTPUT, hidden_dtype=self.hidden_dtype)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.log_temperature = Scalar(0.0)
        if h.lagrange_gap is not None:
            self.log_multiplier = Scalar(1.0)

    def learners(self) -> dict[str, Learner]:
        """Return critics, actor, temperature and, for the Lagrange version, its multiplier."""
        h: Any = self.hparams
        actor, critic = Learner(h.actor_lr), Learner(h.critic_lr)
        learners = {"critic": critic, "actor": actor, "log_temperature": actor}
        return learners if h.lagrange_gap is None else learners | {"log_multiplier": critic}

    def target_networks(self) -> Sequence[Follower]:
        """Return the target critics."""
        return (Follower(self.target_critic, self.critic),)

    def prepare_step(self, compiled: bool) -> None:
        """Choose whether the functions of a gradient step are compiled for this module's device."""
        prepare = preparation(compiled)
        self._target_values = prepare(_target_values)
        self._actor_loss = prepare(_actor_loss)
        self._critic_terms = prepare(partial(_critic_terms, lowest=self.hparams["conservative_min"]))

    @property
    def target_entropy(self) -> float:
        """Entropy that the temperature aims at, in nats."""
        wanted: float | None = self.hparams["target_entropy"]
        return -float(self.action_dim) if wanted is None else wanted

    def draw_noise(self, step: int, rows: int) -> CQLNoise:
        """Return the random numbers of a gradient step on ``rows`` rows."""
        h: Any = self.hparams
        noise, width = self.row_noise(step), self.action_dim
        several = rows, h.num_sampled_actions, width
        return CQLNoise(
            noise.normal(rows, width),
            noise.normal(rows, h.num_backup_actions if h.max_q_backup else 1, width),
            2 * noise.uniform(*several) - 1,
            noise.normal(*several),
            noise.normal(*several),
        )

    def step_on(self, batch: Batch, noise: CQLNoise) -> StepReport:
        """Take one gradient step with given random numbers: all losses see the weights before it."""
        h: Any = self.hparams
        observation, following = self.normalizer(batch.observation), self.normalizer(batch.next_observation)
        next_q = self._target_values(self.actor, self.target_critic, following, noise.backup)
        target = td_target(batch.reward, batch.terminated, batch.steps, next_q, h.discount)
        temperature = self.log_temperature()
        actor_loss, log_prob = self._actor_loss(self.actor, self.critic, temperature, observation, noise.action)
        errors, excess, q = self._critic_terms(
            self.actor, self.critic, observation, following, batch.action, target, noise.uniform, noise.current, noise.following
        )
        # not in the compiled function, whose graph has one backward pass
        temperature_loss = -(temperature * (log_prob + self.target_entropy).detach()).mean()
        losses = {"log_temperature": temperature_loss, "actor": actor_loss}
        weight: float | Tensor = h.conservative_weight
        if h.lagrange_gap is not None:
            multiplier = self.log_multiplier().exp().clamp(0, MAX_MULTIPLIER)
            losses["log_multiplier"] = -0.5 * h.conservative_weight * multiplier * (excess.detach() - h.lagrange_gap).sum()
            weight = h.conservative_weight * multiplier.detach()
        gap = 0.0 if h.lagrange_gap is None else h.lagrange_gap
        losses["critic"] = errors.sum() + (weight * (excess - gap)).sum()
        gradients = {name: loss_gradients(loss, self.get_submodule(name)) for name, loss in losses.items()}
        reported = [
            temperature.detach().exp().clone(),
            excess.detach().mean(),
            log_prob.detach().mean(),
            errors.detach().mean(),
        ]
        for name, loss in losses.items():
            self.update(name, loss, gradients[name])

        def metrics() -> dict[str, Tensor]:
            names = ("actor/temperature", "critic/conservative", "actor/log_prob", "critic/td_loss")
            means = {"critic/q_mean": q.detach().mean(), "critic/target": target.mean()}
            return dict(zip(names, reported, strict=True)) | means

        return StepReport(metrics, q.detach())

    def choose(self, observation: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Return tanh of the actor's means."""
        return self.actor.mode(observation)

    def draw_actions(self, observation: Tensor, generator: torch.Generator) -> Tensor:
        """Return one draw of the actor per observation."""
        noise = torch.randn(len(observation), self.action_dim, generator=generator)
        return self.actor.sample(observation, noise.to(self.device))[0]

    @property
    def critics(self) -> Critics:
        """The critics, judged by their minimum."""
        return Critics.by_minimum(self.target_critic, self.critic)


def _values_of_several(critic: Any, observation: Tensor, actions: Tensor) -> Tensor:
    """Return Q-values (num_critics, batch, n) of several actions per state, (batch, n, action_dim)."""
    rows, count, width = actions.shape
    repeated = observation.unsqueeze(1).expand(-1, count, -1).reshape(rows * count, -1)
    values: Tensor = critic(repeated, actions.reshape(rows * count, width))
    return values.reshape(-1, rows, count)


@torch.no_grad()
def _target_values(actor: TanhGaussianPolicy, target: StackedCritics, following: Tensor, noise: Tensor) -> Tensor:
    """Return the maximum over sampled actions of the target critics' minimum at s', shape (batch,)."""
    actions, _ = actor.sample(following, noise)
    return _values_of_several(target, following, actions).amin(0).amax(-1)


def _actor_loss(
    actor: TanhGaussianPolicy, critic: StackedCritics, log_temperature: Tensor, observation: Tensor, noise: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the actor's loss, and log pi(a|s), shape (batch,)."""
    action, log_prob = actor.sample(observation, noise)
    value = frozen(critic, observation, action).amin(0)
    return (log_temperature.detach().exp() * log_prob - value).mean(), log_prob


def _critic_terms(
    actor: TanhGaussianPolicy,
    critic: StackedCritics,
    observation: Tensor,
    following: Tensor,
    action: Tensor,
    target: Tensor,
    uniform: Tensor,
    current_noise: Tensor,
    following_noise: Tensor,
    lowest: float | None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return each critic's mean squared error and conservative term, both (num_critics,), and Q(s, a) (num_critics, batch).

    The conservative term (arXiv 2006.04779, eq. 4 and appendix F): importance-weighted log-sum-exp of the Q-values of sampled
    actions, all judged at s, minus the Q-value of the data's action. Densities are those of the very actions.
    """
    with torch.no_grad():
        current, current_density = actor.sample(observation, current_noise)
        after, after_density = actor.sample(following, following_noise)
        uniform_density = torch.full_like(current_density, -action.shape[-1] * math.log(2))
        density = torch.cat([uniform_density, current_density, after_density], dim=-1)
        actions = torch.cat([action.unsqueeze(1), uniform, current, after], dim=1)
    values = _values_of_several(critic, observation, actions)
    q = values[..., 0]
    excess = torch.logsumexp(values[..., 1:] - density, dim=-1) - q
    if lowest is not None:
        excess = excess.clamp(min=lowest)
    return (q - target).square().mean(-1), excess.mean(-1), q
