"""Diffusion Q-learning: a diffusion policy whose whole sampling chain is improved by two critics."""

import copy
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from edp_lightning.acceleration.compilation import preparation
from edp_lightning.acceleration.critic_passes import CriticPasses, with_action_gradient
from edp_lightning.acceleration.fused_networks import FusedCriticPasses, fused_noise_network
from edp_lightning.algorithms.candidates import CandidateChoice
from edp_lightning.algorithms.inspection import Critics, Follower, StepReport
from edp_lightning.algorithms.losses import CriticTerms, critic_metrics, max_over_actions, normalized, td_target
from edp_lightning.algorithms.offline_algorithm import OfflineAlgorithm
from edp_lightning.algorithms.optimization import Learner, LRSchedule
from edp_lightning.data.transitions import Batch
from edp_lightning.diffusion import DDPM
from edp_lightning.networks.ensemble import QEnsemble
from edp_lightning.networks.initialization import TORCH
from edp_lightning.networks.noise_network import NoiseNetwork
from edp_lightning.policies.acting import Choice
from edp_lightning.policies.diffusion import DiffusionPolicy


class DiffusionQLNoise(NamedTuple):
    """Noise of one gradient step; ``batch`` rows belong to this rank.

    Attributes:
        next_action: Draws of the chain for a' ~ pi(.|s'), shape (num_diffusion_steps, batch * num_backup_actions, action_dim).
        time: Diffusion times of the behaviour loss, U{1..T}, long, shape (batch,).
        action: Noise of the behaviour loss, shape (batch, action_dim).
        new_action: Draws of the chain for a ~ pi(.|s), shape (num_diffusion_steps, batch, action_dim).
        improving: Which critic the policy is improved on, 0 or 1, shape ().
    """

    next_action: Tensor
    time: Tensor
    action: Tensor
    new_action: Tensor
    improving: Tensor


class DiffusionQL(CandidateChoice):
    """Diffusion-QL (Wang et al., ICLR 2023, arXiv 2208.06193), as its released code computes it.

    One batch is one gradient step of the critics and then of the actor. Target critics and EMA actor are changed by
    ``TargetNetworkUpdate`` only; its options of the released code are in ``configs/diffusion_ql``.

    Args:
        hidden_dims: Widths of the hidden layers (Mish) of actor and critics.
        num_diffusion_steps: Number of diffusion steps T.
        discount: Discount per environment step.
        eta: Weight of the Q term; 0 trains behaviour cloning.
        max_q_backup: Bootstrap from the best of ``num_backup_actions`` sampled next actions, best for each critic by itself,
            instead of from one.
        num_backup_actions: Number of next actions for ``max_q_backup``.
        num_candidates: Actions sampled per decision, among which the target critics choose.
        candidate_temperature: Temperature of the softmax over the candidates' values; 0 takes the best.
        actor_lr: Adam learning rate of the actor.
        critic_lr: Adam learning rate of the critics.
        actor_lr_schedule: ``constant``, or ``cosine`` to zero at ``trainer.max_steps``, changed every step; or ``cooldown``.
        kwargs: Options of every algorithm.
    """

    at_least = OfflineAlgorithm.at_least | {"eta": 0, "num_diffusion_steps": 2}
    fixed_options = (*OfflineAlgorithm.fixed_options, "hidden_dims", "num_diffusion_steps")

    def __init__(
        self,
        hidden_dims: Sequence[int] = (256, 256, 256),
        num_diffusion_steps: int = 5,
        discount: float = 0.99,
        eta: float = 1.0,
        max_q_backup: bool = False,
        num_backup_actions: int = 10,
        num_candidates: int = 50,
        candidate_temperature: float = 1.0,
        actor_lr: float = 3.0e-4,
        critic_lr: float = 3.0e-4,
        actor_lr_schedule: LRSchedule = "constant",
        **kwargs: Any,
    ) -> None:
        hidden_dims = list(hidden_dims)
        super().__init__(**kwargs)
        self.eta = eta
        self.num_backup_actions = num_backup_actions if max_q_backup else 1

    def build(self, observation_dim: int, action_dim: int) -> None:
        """Create actor and critics with their slow copies."""
        h: Any = self.hparams
        network = NoiseNetwork(observation_dim, action_dim, h.hidden_dims, self.hidden_dtype)
        self.actor = DiffusionPolicy(network, DDPM(h.num_diffusion_steps, "vp"), clip_start=True)
        self.critic = QEnsemble(observation_dim, action_dim, 2, h.hidden_dims, self.hidden_dtype, init=TORCH)
        self.ema_actor = copy.deepcopy(self.actor).requires_grad_(False)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.build_chooser()

    def learners(self) -> dict[str, Learner]:
        """Return the critics, then the actor."""
        h: Any = self.hparams
        return {"critic": Learner(h.critic_lr), "actor": Learner(h.actor_lr, h.actor_lr_schedule)}

    def target_networks(self) -> Sequence[Follower]:
        """Return the target critics."""
        return (Follower(self.target_critic, self.critic),)

    def ema_networks(self) -> Sequence[Follower]:
        """Return the actor that the critics' targets sample from."""
        return (Follower(self.ema_actor, self.actor),)

    def prepare_step(self, compiled: bool) -> None:
        """Choose whether the functions of a gradient step are compiled for this module's device."""
        prepare, self._fused = preparation(compiled), self.fused_passes(compiled)
        self._passes = CriticPasses(prepare) if self._fused is None else FusedCriticPasses(self._fused)
        self._next_actions = prepare(_sample) if self._fused is None else self._fused_sample
        self._behavior_loss = prepare(_behavior_loss)
        self._new_actions = prepare(_sample)

    def _fused_sample(self, policy: DiffusionPolicy, observation: Tensor, noise: Tensor) -> Tensor:
        assert self._fused is not None
        assert isinstance(policy.network, NoiseNetwork)
        return policy.sample(observation, noise, fused_noise_network(policy.network, self._fused))

    def draw_noise(self, step: int, rows: int) -> DiffusionQLNoise:
        """Return the noise of a gradient step for this rank's rows."""
        noise, chain, width = self.row_noise(step), self.actor.num_draws, self.action_dim
        next_action = noise.normal(chain, rows, self.num_backup_actions, width, rows=1).reshape(chain, -1, width)
        time = noise.integers(1, self.actor.sde.num_steps + 1, rows)
        action, new_action = noise.normal(rows, width), noise.normal(chain, rows, width, rows=1)
        return DiffusionQLNoise(next_action, time, action, new_action, noise.shared_integer(2))

    def step_on(self, batch: Batch, noise: DiffusionQLNoise) -> StepReport:
        """Take one gradient step with given noise."""
        observation = self.normalizer(batch.observation)
        critic = self.critic_terms(batch, observation, noise)
        self.update("critic", critic.loss, critic.gradients)
        bc_loss = self._behavior_loss(self.actor, observation, batch.action, noise.time, noise.action)
        q_loss = self.q_loss(observation, noise) if self.eta != 0 else bc_loss.new_zeros(())
        self.update("actor", bc_loss + self.eta * q_loss)

        def metrics() -> dict[str, Tensor]:
            actor = {"actor/bc_loss": bc_loss.detach(), "actor/q_loss": q_loss.detach()}
            return critic_metrics(critic) | actor

        return StepReport(metrics, critic.q)

    @torch.no_grad()
    def critic_terms(self, batch: Batch, observation: Tensor, noise: DiffusionQLNoise) -> CriticTerms:
        """Return the sum of both critics' mean squared TD errors with its gradients; targets are constants."""
        count = self.num_backup_actions
        following = self.normalizer(batch.next_observation).repeat_interleave(count, dim=0)
        next_action = self._next_actions(self.ema_actor, following, noise.next_action)
        next_q = self._passes.values(self.target_critic, torch.cat([following, next_action], dim=-1))
        next_value = max_over_actions(next_q, count).amin(dim=0)  # each critic's own best action, then the lower value
        target = td_target(batch.reward, batch.terminated, batch.steps, next_value, self.hparams["discount"])
        both = target.expand(2, -1).contiguous()
        loss, q, gradients = self._passes.td_gradients(self.critic, torch.cat([observation, batch.action], dim=-1), both)
        torch._foreach_mul_(gradients, 2.0)  # of the sum over critics, not of their mean
        return CriticTerms(2 * loss, q, both, gradients)

    def q_loss(self, observation: Tensor, noise: DiffusionQLNoise) -> Tensor:
        """Return ``-mean Q_i`` / ``mean |Q_j|`` at an action from the whole chain, through which gradients reach the actor.

        i is one of the critics, drawn for each step, j the other.
        """
        action = self._new_actions(self.actor, observation, noise.new_action)
        inputs = torch.cat([observation, action.detach()], dim=-1)
        q, derivative = self._passes.action_values(self.critic, inputs, self.action_dim)
        values, scales = with_action_gradient(q, derivative, action).mean(dim=-1), self.mean_over_ranks(q.abs().mean(dim=-1))
        improving = noise.improving.view(1)
        return normalized(values[improving], scales[1 - improving]).squeeze(0)

    def choose(self, observation: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Return the action that the target critics choose."""
        h: Any = self.hparams
        choice = Choice(h.num_candidates, h.candidate_temperature, "min", 0.0)
        return self.choose_among(self.actor, self.target_critic, observation, generators, choice)

    def draw_actions(self, observation: Tensor, generator: torch.Generator) -> Tensor:
        """Return one draw of the actor per observation, without candidates."""
        return self.actor.draw(observation, generator)

    @property
    def critics(self) -> Critics:
        """The critics, judged by their minimum."""
        return Critics.by_minimum(self.target_critic, self.critic)

    @property
    def uses_values(self) -> bool:
        """Nobody looks at values in plain behaviour cloning."""
        return self.eta != 0 or self.hparams["num_candidates"] > 1

    def decision_facts(self) -> dict[str, Any]:
        """Return how many candidates there were and how one was chosen."""
        h: Any = self.hparams
        return {"candidates": h.num_candidates, "candidate_temperature": h.candidate_temperature}


def _sample(policy: DiffusionPolicy, observation: Tensor, noise: Tensor) -> Tensor:
    return policy.sample(observation, noise)


def _behavior_loss(policy: DiffusionPolicy, observation: Tensor, action: Tensor, t: Tensor, noise: Tensor) -> Tensor:
    """Return the noise-matching loss, a scalar."""
    noisy = policy.sde.diffuse(action, t, noise)
    return policy.behavior_loss(action, noisy, t, noise, policy.network(noisy, t, observation), "noise_matching")
