"""Model standard-deviation gradients: an ensemble whose members never share a target, and an actor on its lower bound."""

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from edp_lightning.acceleration.compilation import preparation
from edp_lightning.acceleration.critic_passes import CriticPasses, with_action_gradient
from edp_lightning.algorithms.inspection import Critics, Follower, QFunction, StepReport
from edp_lightning.algorithms.losses import td_target
from edp_lightning.algorithms.offline_algorithm import OfflineAlgorithm
from edp_lightning.algorithms.optimization import Learner, loss_gradients
from edp_lightning.data.transitions import Batch
from edp_lightning.errors import UserError
from edp_lightning.networks.ensemble import QEnsemble
from edp_lightning.networks.initialization import TRUNCATED
from edp_lightning.networks.scalar import Scalar
from edp_lightning.policies.tanh_normal import TanhNormalPolicy


class MSGNoise(NamedTuple):
    """Random numbers of one gradient step; ``batch`` rows belong to this rank.

    Attributes:
        following: Draws of each member's own a' ~ pi(.|s'), shape (num_critics, batch, action_dim).
        current: Draws of each member's own a ~ pi(.|s) for the behaviour term, like ``following``; None without that term.
        action: Draws of the actor's a ~ pi(.|s), shape (batch, action_dim).
        weights: Weights of the squared errors, U(0, 2), shape (num_critics, critics_per_member, batch); None if all are 1.
    """

    following: Tensor
    current: Tensor | None
    action: Tensor
    weights: Tensor | None


class MSG(OfflineAlgorithm):
    """MSG (Ghasemipour et al., NeurIPS 2022, arXiv 2205.13703), as its released code computes it.

    One batch is one gradient step of critics, actor and temperature, all on the weights before it.

    Args:
        hidden_dims: Widths of the hidden layers (ReLU) of actor and critics.
        num_critics: Members of the ensemble.
        critics_per_member: 1, or 2 for members that are a pair of critics whose minimum is their value (Gym in the released
            code).
        discount: Discount per environment step.
        lcb_coef: Standard deviations (over members, of the population) that the actor's value lies below their mean: -beta
            of the paper.
        behavior_coef: alpha of the paper: weight of Q(s, a ~ pi) - Q(s, a of the data) in each member's loss; 0 leaves it out.
        random_weights: Weigh each squared error of each critic by a number drawn from U(0, 2).
        bc_steps: Gradient steps at the beginning in which the actor imitates the data and the temperature rests.
        target_entropy: Entropy of the policy that the temperature aims at, in nats.
        stochastic: Act by a draw of the policy as the released code does, or by its mode.
        actor_lr: Adam learning rate of the actor.
        critic_lr: Adam learning rate of the critics.
        temperature_lr: Adam learning rate of the logarithm of the temperature, which starts at 0.
        kwargs: Options of every algorithm.
    """

    at_least = OfflineAlgorithm.at_least | dict.fromkeys(("lcb_coef", "behavior_coef", "bc_steps", "temperature_lr"), 0)
    fixed_options = (*OfflineAlgorithm.fixed_options, "num_critics", "critics_per_member", "hidden_dims")

    def __init__(
        self,
        hidden_dims: Sequence[int] = (256, 256, 256),
        num_critics: int = 64,
        critics_per_member: Literal[1, 2] = 1,
        discount: float = 0.99,
        lcb_coef: float = 8.0,
        behavior_coef: float = 0.1,
        random_weights: bool = True,
        bc_steps: int = 50_000,
        target_entropy: float = 0.0,
        stochastic: bool = True,
        actor_lr: float = 3.0e-5,
        critic_lr: float = 3.0e-4,
        temperature_lr: float = 3.0e-4,
        **kwargs: Any,
    ) -> None:
        hidden_dims = list(hidden_dims)
        super().__init__(**kwargs)
        if lcb_coef != 0 and num_critics < 2:
            raise UserError(
                f"MSG's lower bound needs the spread of at least 2 members but num_critics is {num_critics}: raise "
                "model.num_critics or set model.lcb_coef to 0"
            )

    def build(self, observation_dim: int, action_dim: int) -> None:
        """Create actor, critics with their targets, and the temperature."""
        h: Any = self.hparams
        self.actor = TanhNormalPolicy(observation_dim, action_dim, h.hidden_dims, TRUNCATED, hidden_dtype=self.hidden_dtype)
        count = h.num_critics * h.critics_per_member
        self.critic = QEnsemble(observation_dim, action_dim, count, h.hidden_dims, self.hidden_dtype, "relu", TRUNCATED)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.log_temperature = Scalar(0.0)

    def learners(self) -> dict[str, Learner]:
        """Return the critics, the actor and the temperature."""
        h: Any = self.hparams
        return {
            "critic": Learner(h.critic_lr),
            "actor": Learner(h.actor_lr),
            "log_temperature": Learner(h.temperature_lr),
        }

    def target_networks(self) -> Sequence[Follower]:
        """Return the target critics."""
        return (Follower(self.target_critic, self.critic),)

    def prepare_step(self, compiled: bool) -> None:
        """Choose whether the functions of a gradient step are compiled for this module's device."""
        h: Any = self.hparams
        prepare = preparation(compiled)
        self._passes = CriticPasses(prepare)
        self._own_inputs = prepare(partial(_own_inputs, per_member=h.critics_per_member))
        self._critic_loss = prepare(partial(_critic_loss, members=h.num_critics, behavior_coef=h.behavior_coef))
        self._draw = prepare(_draw)
        self._imitation_loss = prepare(_imitation_loss)

    def draw_noise(self, step: int, rows: int) -> MSGNoise:
        """Return the random numbers of a gradient step on ``rows`` rows."""
        h: Any = self.hparams
        noise, own = self.row_noise(step), (h.num_critics, rows, self.action_dim)
        following, action = noise.normal(*own, rows=1), noise.normal(rows, self.action_dim)
        current = noise.normal(*own, rows=1) if h.behavior_coef != 0 else None
        weights = 2 * noise.uniform(h.num_critics, h.critics_per_member, rows, rows=2) if h.random_weights else None
        return MSGNoise(following, current, action, weights)

    def gradient_step(self, batch: Batch, step: int) -> StepReport:
        """Take one gradient step of critics, actor and, after the first ``bc_steps``, the temperature."""
        return self._take(batch, self.draw_noise(step, len(batch.action)), step < self.hparams["bc_steps"])

    def _take(self, batch: Batch, noise: MSGNoise, imitate: bool) -> StepReport:
        """Take one gradient step with given random numbers; ``imitate`` in the phase of behaviour cloning."""
        h: Any = self.hparams
        observation, following = self.normalizer(batch.observation), self.normalizer(batch.next_observation)
        next_inputs = self._own_inputs(self.actor, following, noise.following)
        next_value = self._by_member(self._passes.values(self.target_critic, next_inputs)).amin(1)
        target = td_target(batch.reward, batch.terminated, batch.steps, next_value, h.discount)
        inputs = torch.cat([observation, batch.action], dim=-1)
        own = None if noise.current is None else self._own_inputs(self.actor, observation, noise.current)
        critic_loss, q = self._critic_loss(self.critic, inputs, own, target, noise.weights)
        losses = {"critic": critic_loss}
        log_prob = value = critic_loss.new_zeros(())
        if imitate:
            losses["actor"] = self._imitation_loss(self.actor, observation, batch.action)
        else:
            action, density = self._draw(self.actor, observation, noise.action)
            value, log_prob = self.lower_bound(observation, action).mean(), density.mean()
            temperature = self.log_temperature().exp()
            losses["actor"] = temperature.detach() * log_prob - value
            losses["log_temperature"] = temperature * (-log_prob.detach() - h.target_entropy)
        gradients = {name: loss_gradients(loss, self.get_submodule(name)) for name, loss in losses.items()}
        reported = [self.log_temperature().detach().exp(), log_prob.detach(), value.detach()]
        for name, loss in losses.items():
            self.update(name, loss, gradients[name])

        def metrics() -> dict[str, Tensor]:
            named = zip(("actor/temperature", "actor/log_prob", "actor/value"), reported, strict=True)
            spread = q.detach().std(0, correction=0).mean()
            return dict(named) | {"critic/q_mean": q.detach().mean(), "critic/q_std": spread, "critic/target": target.mean()}

        return StepReport(metrics, q.detach())

    def lower_bound(self, observation: Tensor, action: Tensor) -> Tensor:
        """Return the members' mean less ``lcb_coef`` standard deviations (batch,), with a gradient for the action alone."""
        inputs = torch.cat([observation, action.detach()], dim=-1)
        q, derivative = self._passes.action_values(self.critic, inputs, self.action_dim)
        return _lower_bound(self._by_member(with_action_gradient(q, derivative, action)).amin(1), self.hparams["lcb_coef"])

    def _by_member(self, q: Tensor) -> Tensor:
        """Return Q-values (num_critics * critics_per_member, batch) as (num_critics, critics_per_member, batch)."""
        return q.reshape(self.hparams["num_critics"], -1, q.shape[-1])

    def choose(self, observation: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Return a draw of the policy, or its mode."""
        if not self.hparams["stochastic"]:
            return self.actor.mode(observation)
        noise = torch.stack([torch.randn(self.action_dim, generator=generator) for generator in generators])
        return self.actor.sample(observation, noise.to(self.device))[0]

    def draw_actions(self, observation: Tensor, generator: torch.Generator) -> Tensor:
        """Return one draw of the policy per observation."""
        noise = torch.randn(len(observation), self.action_dim, generator=generator)
        return self.actor.sample(observation, noise.to(self.device))[0]

    @property
    def critics(self) -> Critics:
        """The members, judged by the lower bound that the actor is trained on."""
        h: Any = self.hparams

        def members(critic: QEnsemble) -> QFunction:
            return lambda observation, action: self._by_member(critic(observation, action)).amin(1)

        pessimistic = partial(_lower_bound, lcb_coef=h.lcb_coef)
        return Critics(members(self.target_critic), members(self.critic), pessimistic)

    def decision_facts(self) -> dict[str, Any]:
        """Return whether actions were drawn."""
        return {"stochastic": self.hparams["stochastic"]}


@torch.no_grad()
def _own_inputs(actor: TanhNormalPolicy, observation: Tensor, noise: Tensor, per_member: int) -> Tensor:
    """Return what each critic sees of the states with its member's own actions, (critics, batch, width)."""
    action, _ = actor.sample(observation, noise)
    inputs = torch.cat([observation.expand(len(action), -1, -1), action], dim=-1)
    return inputs if per_member == 1 else inputs.repeat_interleave(per_member, dim=0)


def _critic_loss(
    critic: QEnsemble,
    inputs: Tensor,
    own: Tensor | None,
    target: Tensor,
    weights: Tensor | None,
    members: int,
    behavior_coef: float,
) -> tuple[Tensor, Tensor]:
    """Return the sum of the members' losses, so that each has the gradient of its own, and their values (members, batch).

    Args:
        critic: All critics, those of a member next to each other.
        inputs: Rows of the data, shape (batch, width).
        own: Each critic's rows of the policy's actions, shape (critics, batch, width); None without the behaviour term.
        target: Targets, shape (members, batch).
        weights: Of the squared errors, shape (members, critics per member, batch); None if all are 1.
        members: Members of the ensemble.
        behavior_coef: Weight of the behaviour term.
    """
    if own is None:
        values = critic.of_inputs(inputs)
        q = values.reshape(members, -1, values.shape[-1])
    else:  # one pass for both
        both = critic.of_inputs(torch.cat([inputs.expand(len(own), -1, -1), own], dim=1))
        q, q_policy = both.reshape(members, -1, both.shape[-1]).chunk(2, dim=-1)
    errors = (q - target.unsqueeze(1)).square()
    if weights is not None:
        errors = weights * errors
    value = q.amin(1)
    loss = 0.5 * errors.mean(dim=(1, 2)).sum()
    if own is not None:
        loss = loss + behavior_coef * (q_policy.amin(1) - value).mean(-1).sum()
    return loss, value


def _draw(actor: TanhNormalPolicy, observation: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
    return actor.sample(observation, noise)


def _imitation_loss(actor: TanhNormalPolicy, observation: Tensor, action: Tensor) -> Tensor:
    return -actor.log_prob(observation, action).mean()


def _lower_bound(values: Tensor, lcb_coef: float) -> Tensor:
    """Return mean - lcb_coef * population standard deviation over members (members, batch): (batch,)."""
    if lcb_coef == 0:
        return values.mean(0)
    return values.mean(0) - lcb_coef * values.std(0, correction=0)
