"""Implicit Q-learning: values from the dataset's own actions, a policy by advantage-weighted regression."""

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn

from edp_lightning.acceleration.compilation import preparation
from edp_lightning.algorithms.inspection import Critics, Follower, StepReport
from edp_lightning.algorithms.losses import exponential_weights, td_target
from edp_lightning.algorithms.offline_algorithm import OfflineAlgorithm
from edp_lightning.algorithms.optimization import Learner, LRSchedule
from edp_lightning.data.transitions import Batch
from edp_lightning.networks.initialization import ORTHOGONAL, TORCH
from edp_lightning.networks.perceptron import Perceptron, StackedCritics
from edp_lightning.policies.gaussian import DeterministicPolicy, GaussianPolicy

PolicyKind = Literal["gaussian", "deterministic"]
StepOrder = Literal["value_first", "together"]
Reduction = Literal["sum", "mean"]


class IQL(OfflineAlgorithm):
    """Implicit Q-learning (Kostrikov et al., ICLR 2022, arXiv 2110.06169).

    One batch is one gradient step of the value function, then of the actor, then of the critics, as in the authors' code.

    Args:
        hidden_dims: Widths of the hidden layers (ReLU) of all networks.
        num_critics: Critics, whose minimum counts.
        discount: Discount per environment step.
        expectile: tau of the value function's loss, in (0, 1): 0.5 regresses to the mean over the data's actions, values
            near 1 to the best of them.
        inverse_temperature: beta of the actor's weights exp(beta (Q - V)); 0 is behaviour cloning.
        max_weight: Upper bound of these weights.
        policy: ``gaussian``, or ``deterministic``: weighted squared errors.
        log_std_min: Lower bound of the Gaussian's logarithmic spread.
        log_std_max: Upper bound of it.
        actor_dropout: Probability that an output of the actor's hidden layers is dropped in training.
        init: ``orthogonal`` for all layers as in the authors' code, or ``torch``.
        critic_reduction: ``sum`` of the critics' mean squared errors as in the authors' code, or their ``mean``.
        order: ``value_first``: actor and critics see the value function after its step, as in the authors' code;
            ``together``: before it (CORL).
        value_lr: Adam learning rate of the value function.
        critic_lr: Adam learning rate of the critics.
        actor_lr: Adam learning rate of the actor.
        actor_lr_schedule: ``cosine`` to zero at ``trainer.max_steps``, changed every step, ``constant`` or ``cooldown``.
        kwargs: Options of every algorithm.
    """

    at_least = OfflineAlgorithm.at_least | {
        **dict.fromkeys(("expectile", "inverse_temperature", "max_weight", "actor_dropout", "value_lr"), 0),
        "num_critics": 1,
    }
    at_most = OfflineAlgorithm.at_most | {"expectile": 1, "actor_dropout": 0.99}
    fixed_options = (*OfflineAlgorithm.fixed_options, "num_critics", "hidden_dims", "policy")

    def __init__(
        self,
        hidden_dims: Sequence[int] = (256, 256),
        num_critics: int = 2,
        discount: float = 0.99,
        expectile: float = 0.7,
        inverse_temperature: float = 3.0,
        max_weight: float = 100.0,
        policy: PolicyKind = "gaussian",
        log_std_min: float = -5.0,
        log_std_max: float = 2.0,
        actor_dropout: float = 0.0,
        init: Literal["orthogonal", "torch"] = "orthogonal",
        critic_reduction: Reduction = "sum",
        order: StepOrder = "value_first",
        value_lr: float = 3.0e-4,
        critic_lr: float = 3.0e-4,
        actor_lr: float = 3.0e-4,
        actor_lr_schedule: LRSchedule = "cosine",
        **kwargs: Any,
    ) -> None:
        hidden_dims = list(hidden_dims)
        super().__init__(**kwargs)

    def build(self, observation_dim: int, action_dim: int) -> None:
        """Create value function, actor and critics with their targets."""
        h: Any = self.hparams
        options: Any = {"init": ORTHOGONAL if h.init == "orthogonal" else TORCH, "hidden_dtype": self.hidden_dtype}
        network = Perceptron(observation_dim, h.hidden_dims, action_dim, **options)
        self.actor: GaussianPolicy | DeterministicPolicy = (
            GaussianPolicy(network, action_dim, h.log_std_min, h.log_std_max)
            if h.policy == "gaussian"
            else DeterministicPolicy(network)
        )
        self.critic = StackedCritics(observation_dim, action_dim, h.hidden_dims, h.num_critics, **options)
        self.value = Perceptron(observation_dim, h.hidden_dims, 1, **options)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)

    def learners(self) -> dict[str, Learner]:
        """Return value function, actor and critics."""
        h: Any = self.hparams
        return {
            "value": Learner(h.value_lr),
            "actor": Learner(h.actor_lr, h.actor_lr_schedule),
            "critic": Learner(h.critic_lr),
        }

    def target_networks(self) -> Sequence[Follower]:
        """Return the target critics."""
        return (Follower(self.target_critic, self.critic),)

    def prepare_step(self, compiled: bool) -> None:
        """Choose whether the functions of a gradient step are compiled for this module's device."""
        h: Any = self.hparams
        prepare = preparation(compiled)
        self._values = prepare(state_values)
        self._value_loss = prepare(partial(value_loss, expectile=h.expectile))
        self._actor_loss = prepare(partial(_actor_loss, inverse_temperature=h.inverse_temperature, max_weight=h.max_weight))
        self._critic_loss = prepare(partial(critic_loss, reduction=h.critic_reduction))

    def draw_noise(self, step: int, rows: int) -> list[Tensor]:
        """Return the actor's dropout factors of a gradient step."""
        h: Any = self.hparams
        return self.row_noise(step).dropout(rows, h.hidden_dims, h.actor_dropout)

    def step_on(self, batch: Batch, noise: list[Tensor]) -> StepReport:
        """Take one gradient step with given dropout factors."""
        observation, following = self.normalizer(batch.observation), self.normalizer(batch.next_observation)
        with torch.no_grad():
            target_q = self.target_critic(observation, batch.action).amin(0)
        regression, value = self._value_loss(self.value, observation, target_q)
        value = value.detach()
        if self.hparams["order"] == "value_first":
            self.update("value", regression)
            value, next_value = self._values(self.value, observation, following)
        else:
            _, next_value = self._values(self.value, observation, following)
            self.update("value", regression)
        advantage = target_q - value
        self.update("actor", self._actor_loss(self.actor, observation, batch.action, advantage, noise))
        target = td_target(batch.reward, batch.terminated, batch.steps, next_value, self.hparams["discount"])
        loss, q = self._critic_loss(self.critic, observation, batch.action, target)
        self.update("critic", loss)

        def metrics() -> dict[str, Tensor]:
            return {
                "value/mean": value.mean(),
                "actor/advantage": advantage.mean(),
                "critic/q_mean": q.detach().mean(),
                "critic/target": target.mean(),
            }

        return StepReport(metrics, q.detach())

    def choose(self, observation: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Return the actor's most likely actions."""
        action: Tensor = self.actor(observation)
        return action

    def draw_actions(self, observation: Tensor, generator: torch.Generator) -> Tensor:
        """Return one draw of the actor per observation."""
        if isinstance(self.actor, DeterministicPolicy):
            return self.choose(observation, [])
        noise = torch.randn(len(observation), self.action_dim, generator=generator)
        return self.actor.sample(observation, noise.to(self.device))

    @property
    def critics(self) -> Critics:
        """The critics, judged by their minimum."""
        return Critics.by_minimum(self.target_critic, self.critic)

    @property
    def uses_values(self) -> bool:
        """Without weights the actor clones the data."""
        return bool(self.hparams["inverse_temperature"] != 0)


def expectile_loss(error: Tensor, expectile: float) -> Tensor:
    """Return ``mean |tau - 1(error < 0)| error^2``, a scalar (arXiv 2110.06169, eq. 3)."""
    weight = torch.where(error < 0, 1 - expectile, expectile)
    return (weight * error.square()).mean()


@torch.no_grad()
def state_values(network: nn.Module, observation: Tensor, following: Tensor) -> tuple[Tensor, Tensor]:
    """Return V(s) and V(s'), both (batch,)."""
    value, next_value = network(torch.cat([observation, following])).squeeze(-1).chunk(2)
    return value, next_value


def value_loss(network: nn.Module, observation: Tensor, target_q: Tensor, expectile: float) -> tuple[Tensor, Tensor]:
    """Return the value function's loss and V(s), shape (batch,)."""
    value = network(observation).squeeze(-1)
    return expectile_loss(target_q - value, expectile), value


def _actor_loss(
    actor: GaussianPolicy | DeterministicPolicy,
    observation: Tensor,
    action: Tensor,
    advantage: Tensor,
    kept: Sequence[Tensor],
    inverse_temperature: float,
    max_weight: float,
) -> Tensor:
    """Return the mean of min(exp(beta A), max_weight) times the actor's error on the data's actions."""
    weight = exponential_weights(advantage, inverse_temperature, max_weight)
    if isinstance(actor, GaussianPolicy):
        return -(weight * actor.log_prob(observation, action, kept)).mean()
    result: Tensor = (weight * (actor(observation, kept) - action).square().sum(-1)).mean()
    return result


def critic_loss(
    critic: nn.Module, observation: Tensor, action: Tensor, target: Tensor, reduction: Reduction
) -> tuple[Tensor, Tensor]:
    """Return the critics' mean squared errors together, and Q-values (num_critics, batch)."""
    q = critic(observation, action)
    errors = (q - target).square().mean(-1)
    return errors.sum() if reduction == "sum" else errors.mean(), q
