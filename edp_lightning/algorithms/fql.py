"""Flow Q-learning: a flow that clones the data, and a one-step policy that follows it and climbs the critics."""

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from edp_lightning.acceleration.compilation import preparation
from edp_lightning.algorithms.inspection import Critics, Follower, StepReport
from edp_lightning.algorithms.losses import td_target
from edp_lightning.algorithms.offline_algorithm import OfflineAlgorithm
from edp_lightning.algorithms.optimization import Learner, loss_gradients
from edp_lightning.data.transitions import Batch
from edp_lightning.networks.frozen import frozen
from edp_lightning.networks.initialization import XAVIER
from edp_lightning.networks.perceptron import Perceptron, StackedCritics
from edp_lightning.policies.flow import FlowPolicy, OneStepPolicy

Aggregation = Literal["mean", "min"]


class FQLNoise(NamedTuple):
    """Random numbers of one gradient step.

    Attributes:
        following: For the policy's action at s', shape (batch, action_dim).
        flow: Start of the lines that the flow is matched to, shape (batch, action_dim).
        time: Their times from U(0, 1), shape (batch, 1).
        action: For the policy's action at s and the flow's, shape (batch, action_dim).
    """

    following: Tensor
    flow: Tensor
    time: Tensor
    action: Tensor


class FQL(OfflineAlgorithm):
    """Flow Q-learning (Park, Li and Levine, ICML 2025, arXiv 2502.02538).

    One batch is one gradient step of critics, flow and policy, all from the weights before it.

    Args:
        hidden_dims: Widths of the hidden layers (GELU) of all networks.
        discount: Discount per environment step.
        alpha: Weight of the policy's squared distance to the flow's action.
        num_flow_steps: Euler steps of the flow.
        q_aggregation: ``mean`` or ``min`` of the two target critics in the targets.
        normalize_q: Divide the policy's Q term by the mean magnitude of its values.
        critic_layer_norm: Normalise the critics' hidden layers.
        actor_layer_norm: Normalise the hidden layers of flow and policy.
        lr: Adam learning rate of all networks.
        kwargs: Options of every algorithm.
    """

    at_least = OfflineAlgorithm.at_least | {"num_flow_steps": 1, "alpha": 0, "lr": 0}
    fixed_options = (*OfflineAlgorithm.fixed_options, "hidden_dims", "critic_layer_norm", "actor_layer_norm")

    def __init__(
        self,
        hidden_dims: Sequence[int] = (512, 512, 512, 512),
        discount: float = 0.99,
        alpha: float = 10.0,
        num_flow_steps: int = 10,
        q_aggregation: Aggregation = "mean",
        normalize_q: bool = False,
        critic_layer_norm: bool = True,
        actor_layer_norm: bool = False,
        lr: float = 3.0e-4,
        **kwargs: Any,
    ) -> None:
        hidden_dims = list(hidden_dims)
        super().__init__(**kwargs)

    def build(self, observation_dim: int, action_dim: int) -> None:
        """Create flow, policy and critics with their targets."""
        h: Any = self.hparams
        shared: Any = {"activation": "gelu", "init": XAVIER, "hidden_dtype": self.hidden_dtype}
        actors: Any = shared | {"layer_norm": h.actor_layer_norm}
        width = observation_dim + action_dim
        self.flow = FlowPolicy(Perceptron(width + 1, h.hidden_dims, action_dim, **actors), h.num_flow_steps)
        self.actor = OneStepPolicy(Perceptron(width, h.hidden_dims, action_dim, **actors))
        self.critic = StackedCritics(observation_dim, action_dim, h.hidden_dims, layer_norm=h.critic_layer_norm, **shared)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)

    def learners(self) -> dict[str, Learner]:
        """Return critics, flow and policy."""
        return dict.fromkeys(("critic", "flow", "actor"), Learner(self.hparams["lr"]))

    def target_networks(self) -> Sequence[Follower]:
        """Return the target critics."""
        return (Follower(self.target_critic, self.critic),)

    def prepare_step(self, compiled: bool) -> None:
        """Choose whether the functions of a gradient step are compiled for this module's device."""
        prepare = preparation(compiled)
        self._next_values = prepare(partial(_next_values, aggregation=self.hparams["q_aggregation"]))
        self._critic_loss = prepare(_critic_loss)
        self._flow_loss = prepare(_flow_loss)
        self._flow_actions = prepare(_flow_actions)
        self._actor_terms = prepare(_actor_terms)

    def draw_noise(self, step: int, rows: int) -> FQLNoise:
        """Return the random numbers of a gradient step on ``rows`` rows."""
        noise, width = self.row_noise(step), self.action_dim
        return FQLNoise(noise.normal(rows, width), noise.normal(rows, width), noise.uniform(rows, 1), noise.normal(rows, width))

    def step_on(self, batch: Batch, noise: FQLNoise) -> StepReport:
        """Take one gradient step with given random numbers: all losses see the weights before it."""
        h: Any = self.hparams
        observation, following = self.normalizer(batch.observation), self.normalizer(batch.next_observation)
        next_value = self._next_values(self.actor, self.target_critic, following, noise.following)
        target = td_target(batch.reward, batch.terminated, batch.steps, next_value, h.discount)
        critic_loss, q = self._critic_loss(self.critic, observation, batch.action, target)
        flow_loss = self._flow_loss(self.flow, observation, batch.action, noise.flow, noise.time)
        cloned = self._flow_actions(self.flow, observation, noise.action)
        distance, value, magnitude = self._actor_terms(self.actor, self.critic, observation, noise.action, cloned)
        scale = 1 / self.mean_over_ranks(magnitude.detach()) if h.normalize_q else 1.0
        losses = {"critic": critic_loss, "flow": flow_loss, "actor": h.alpha * distance - scale * value}
        gradients = {name: loss_gradients(loss, self.get_submodule(name)) for name, loss in losses.items()}
        for name, loss in losses.items():
            self.update(name, loss, gradients[name])

        def metrics() -> dict[str, Tensor]:
            return {
                "critic/q_mean": q.detach().mean(),
                "critic/target": target.mean(),
                "actor/distance": distance.detach(),
                "actor/value": value.detach(),
            }

        return StepReport(metrics, q.detach())

    def choose(self, observation: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Return one draw of the policy per observation."""
        noise = torch.stack([torch.randn(self.action_dim, generator=generator) for generator in generators])
        result: Tensor = self.actor(observation, noise.to(self.device)).clamp(-1, 1)
        return result

    def draw_actions(self, observation: Tensor, generator: torch.Generator) -> Tensor:
        """Return one draw of the policy per observation."""
        noise = torch.randn(len(observation), self.action_dim, generator=generator)
        result: Tensor = self.actor(observation, noise.to(self.device)).clamp(-1, 1)
        return result

    @property
    def critics(self) -> Critics:
        """The critics, judged by their mean, which the policy climbs."""
        pessimistic = partial(torch.mean, dim=0)
        return Critics(self.target_critic, self.critic, pessimistic)


@torch.no_grad()
def _next_values(
    actor: OneStepPolicy, critic: StackedCritics, following: Tensor, noise: Tensor, aggregation: Aggregation
) -> Tensor:
    """Return the target critics' value of the policy's action at s', shape (batch,)."""
    q = critic(following, actor(following, noise).clamp(-1, 1))
    result: Tensor = q.amin(0) if aggregation == "min" else q.mean(0)
    return result


def _critic_loss(critic: StackedCritics, observation: Tensor, action: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Return the mean squared error over critics and rows, and Q-values (num_critics, batch)."""
    q = critic(observation, action)
    return (q - target).square().mean(), q


def _flow_loss(flow: FlowPolicy, observation: Tensor, action: Tensor, noise: Tensor, time: Tensor) -> Tensor:
    """Return the flow's matching loss."""
    return flow.matching_loss(observation, action, noise, time)


@torch.no_grad()
def _flow_actions(flow: FlowPolicy, observation: Tensor, noise: Tensor) -> Tensor:
    """Return the flow's actions."""
    return flow.sample(observation, noise)


def _actor_terms(
    actor: OneStepPolicy, critic: StackedCritics, observation: Tensor, noise: Tensor, cloned: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the mean squared distance to the flow's action, the mean value and its mean magnitude, scalars."""
    action = actor(observation, noise)
    value = frozen(critic, observation, action.clamp(-1, 1)).mean(0)
    return (action - cloned).square().mean(), value.mean(), value.abs().mean()
