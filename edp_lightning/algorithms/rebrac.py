"""ReBRAC: TD3 with two distances to the data's actions, one for the actor and one for the critics' targets."""

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from edp_lightning.acceleration.compilation import preparation
from edp_lightning.algorithms.inspection import Critics, Follower, StepReport
from edp_lightning.algorithms.losses import td_target
from edp_lightning.algorithms.offline_algorithm import OfflineAlgorithm
from edp_lightning.algorithms.optimization import Learner
from edp_lightning.data.transitions import SuccessorBatch
from edp_lightning.errors import UserError
from edp_lightning.networks.frozen import frozen
from edp_lightning.networks.initialization import small_uniform_output
from edp_lightning.networks.perceptron import Perceptron, StackedCritics
from edp_lightning.policies.gaussian import DeterministicPolicy


class ReBRAC(OfflineAlgorithm):
    """Revisited behaviour-regularised actor-critic (Tarasov et al., NeurIPS 2023, arXiv 2305.09836).

    One batch is one gradient step of the critics and, every ``actor_every`` steps, of the actor; only then both targets move.

    Args:
        hidden_dims: Widths of the hidden layers (ReLU) of actor and critics.
        discount: Discount per environment step.
        actor_bc_coef: Weight of the actor's squared distance to the data's action, summed over its dimensions.
        critic_bc_coef: Weight of that distance at the next state, taken off the value there. Needs the data's next action; a
            transition after which the data do not go on is left without.
        policy_noise: Spread of the noise on the target actor's actions.
        noise_clip: Bound of that noise.
        actor_every: Gradient steps of the critics per step of the actor.
        normalize_q: Divide the actor's Q term by the mean magnitude of its values.
        critic_layer_norm: Normalise the critics' hidden layers.
        actor_layer_norm: Normalise the actor's hidden layers.
        actor_lr: Adam learning rate of the actor.
        critic_lr: Adam learning rate of the critics.
        kwargs: Options of every algorithm.
    """

    at_least = OfflineAlgorithm.at_least | {
        **dict.fromkeys(("actor_bc_coef", "critic_bc_coef", "policy_noise", "noise_clip"), 0),
        "actor_every": 1,
    }
    fixed_options = (*OfflineAlgorithm.fixed_options, "hidden_dims", "critic_layer_norm", "actor_layer_norm")

    def __init__(
        self,
        hidden_dims: Sequence[int] = (256, 256, 256),
        discount: float = 0.99,
        actor_bc_coef: float = 1.0,
        critic_bc_coef: float = 1.0,
        policy_noise: float = 0.2,
        noise_clip: float = 0.5,
        actor_every: int = 2,
        normalize_q: bool = True,
        critic_layer_norm: bool = True,
        actor_layer_norm: bool = False,
        actor_lr: float = 1.0e-3,
        critic_lr: float = 1.0e-3,
        **kwargs: Any,
    ) -> None:
        hidden_dims = list(hidden_dims)
        super().__init__(**kwargs)

    def build(self, observation_dim: int, action_dim: int) -> None:
        """Create actor and critics with their targets."""
        h: Any = self.hparams
        self.actor = DeterministicPolicy(
            Perceptron(
                observation_dim,
                h.hidden_dims,
                action_dim,
                init=small_uniform_output(1e-3),
                layer_norm=h.actor_layer_norm,
                hidden_dtype=self.hidden_dtype,
            )
        )
        self.critic = StackedCritics(
            observation_dim,
            action_dim,
            h.hidden_dims,
            init=small_uniform_output(3e-3),
            layer_norm=h.critic_layer_norm,
            hidden_dtype=self.hidden_dtype,
        )
        self.target_actor = copy.deepcopy(self.actor).requires_grad_(False)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)

    def learners(self) -> dict[str, Learner]:
        """Return critics and actor."""
        every = self.hparams["actor_every"]
        return {"critic": Learner(self.hparams["critic_lr"]), "actor": Learner(self.hparams["actor_lr"], every=every)}

    def target_networks(self) -> Sequence[Follower]:
        """Return the targets of critics and actor, which move when the actor does."""
        every = self.hparams["actor_every"]
        return Follower(self.target_critic, self.critic, every), Follower(self.target_actor, self.actor, every)

    @property
    def uses_next_action(self) -> bool:
        """The critics' targets compare the target actor's action with the data's."""
        return bool(self.hparams["critic_bc_coef"] != 0)

    def prepare_step(self, compiled: bool) -> None:
        """Choose whether the functions of a gradient step are compiled for this module's device."""
        h: Any = self.hparams
        prepare = preparation(compiled)
        self._next_values = prepare(partial(_next_values, spread=h.policy_noise, bound=h.noise_clip, coef=h.critic_bc_coef))
        self._critic_loss = prepare(_critic_loss)
        self._actor_terms = prepare(_actor_terms)

    def gradient_step(self, batch: Any, step: int) -> StepReport:
        """Take one gradient step of the critics and, if it is its turn, of the actor, which sees the critics after theirs."""
        h: Any = self.hparams
        observation, following = self.normalizer(batch.observation), self.normalizer(batch.next_observation)
        noise = self.row_noise(step).normal(*batch.action.shape)
        if not self.uses_next_action:
            successor = torch.zeros_like(batch.action), torch.zeros_like(batch.reward)
        elif isinstance(batch, SuccessorBatch):
            successor = batch.next_action, batch.next_action_known
        else:
            raise UserError(
                "ReBRAC with model.critic_bc_coef above 0 needs each transition's next action, which these batches lack: train "
                "it on edp_lightning's OfflineDataModule, or set model.critic_bc_coef 0"
            )
        next_value = self._next_values(self.target_actor, self.target_critic, following, noise, *successor)
        target = td_target(batch.reward, batch.terminated, batch.steps, next_value, h.discount)
        critic_loss, q = self._critic_loss(self.critic, observation, batch.action, target)
        self.update("critic", critic_loss)
        numbers = {"critic/q_mean": q.detach().mean(), "critic/target": target.mean()}
        if self._learners["actor"].has_turn(step):
            distance, value, magnitude = self._actor_terms(self.actor, self.critic, observation, batch.action)
            scale = 1 / self.mean_over_ranks(magnitude.detach()) if h.normalize_q else 1.0
            self.update("actor", h.actor_bc_coef * distance - scale * value)
            numbers |= {"actor/bc_loss": distance.detach(), "actor/value": value.detach()}
        return StepReport(lambda: numbers, q.detach())

    def choose(self, observation: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Return the actor's actions."""
        action: Tensor = self.actor(observation)
        return action

    def draw_actions(self, observation: Tensor, generator: torch.Generator) -> Tensor:
        """Return the actor's actions: it has no spread."""
        action: Tensor = self.actor(observation)
        return action

    @property
    def critics(self) -> Critics:
        """The critics, judged by their minimum."""
        return Critics.by_minimum(self.target_critic, self.critic)


@torch.no_grad()
def _next_values(
    actor: DeterministicPolicy,
    critic: StackedCritics,
    following: Tensor,
    noise: Tensor,
    next_action: Tensor,
    known: Tensor,
    spread: float,
    bound: float,
    coef: float,
) -> Tensor:
    """Return min_i Qbar_i(s', a') - coef |a' - data's next action|^2, shape (batch,), a' of the target actor plus noise."""
    action = (actor(following) + (spread * noise).clamp(-bound, bound)).clamp(-1, 1)
    distance = (action - next_action).square().sum(-1)
    result: Tensor = critic(following, action).amin(0) - coef * known * distance
    return result


def _critic_loss(critic: StackedCritics, observation: Tensor, action: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of the critics' mean squared errors, and Q-values (num_critics, batch)."""
    q = critic(observation, action)
    return (q - target).square().mean(-1).sum(), q


def _actor_terms(
    actor: DeterministicPolicy, critic: StackedCritics, observation: Tensor, action: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean squared distance to the data's action, the mean pessimistic value and its mean magnitude, scalars."""
    chosen = actor(observation)
    value = frozen(critic, observation, chosen).amin(0)
    return (chosen - action).square().sum(-1).mean(), value.mean(), value.abs().mean()
