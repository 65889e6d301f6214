"""What a gradient step minimises: losses and gradients of one batch, as functions of networks, batch and noise."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor, nn

from edp_lightning.acceleration.critic_passes import CPU_PASSES, CriticPasses, with_action_gradient
from edp_lightning.acceleration.fused_networks import FusedCriticPasses, fused_noise_network
from edp_lightning.acceleration.gpu_passes import GPU_PASSES
from edp_lightning.acceleration.native.perceptrons import FusedPerceptrons
from edp_lightning.algorithms.losses import (
    ActorTerms,
    BackupChoice,
    CriticTerms,
    QScale,
    QTimeWeight,
    best_of_actions,
    max_over_actions,
    q_time_weights,
    state_scales,
    td_target,
)
from edp_lightning.algorithms.noise import StepNoise
from edp_lightning.data.transitions import Batch
from edp_lightning.networks.ensemble import QAggregation, QEnsemble, aggregate_q
from edp_lightning.networks.noise_network import NoiseNetwork
from edp_lightning.policies.diffusion import UNIT_OF_ENTROPY, BehaviorLoss, DiffusionPolicy, EntropyEstimator
from edp_lightning.policies.prediction_error import squared_error_sums


@dataclass(frozen=True)
class Networks:
    """The networks of a gradient step; ``normalizer`` maps observations to what all others see."""

    normalizer: nn.Module
    actor: DiffusionPolicy
    ema_actor: DiffusionPolicy
    critic: QEnsemble
    target_critic: QEnsemble


@dataclass(frozen=True)
class ObjectiveOptions:
    """Options of the losses, named and explained as in ``EntropyDiffusionPolicy``."""

    bc_loss: BehaviorLoss
    eta: float
    entropy: EntropyEstimator
    q_aggregation: QAggregation
    lcb_coef: float
    discount: float
    num_backup_actions: int
    backup_choice: BackupChoice
    q_time_weight: QTimeWeight = "uniform"
    q_scale: QScale = "batch"
    target_bounds: Sequence[float] | None = None

    @classmethod
    def of(cls, hparams: Mapping[str, Any], **others: Any) -> "ObjectiveOptions":
        """Return the options among a model's hyperparameters, ``others`` first."""
        return cls(**{f.name: others[f.name] if f.name in others else hparams[f.name] for f in fields(cls)})


class Objectives:
    """Losses and gradients of one batch.

    Args:
        networks: The networks, used and never changed.
        options: What to compute.
        entropy_coef: Maps normalised observations (states, observation_dim) to the entropy coefficient, scalar or (states,).
        prepare: Wraps each pure function once, for example with ``compile_or_eager``.
        fused: Used for the sampling chain instead, and for the passes through critics that it knows.
    """

    def __init__(
        self,
        networks: Networks,
        options: ObjectiveOptions,
        entropy_coef: Callable[[Tensor], Tensor],
        prepare: Callable[[Any], Any],
        fused: FusedPerceptrons | None = None,
    ) -> None:
        self.networks = networks
        self.options = options
        self.entropy_coef = entropy_coef
        self._fused = fused
        functions = CPU_PASSES if networks.critic.output.weight.device.type == "cpu" else GPU_PASSES
        self._passes: CriticPasses | FusedCriticPasses = CriticPasses(prepare, functions)
        if fused is not None and FusedCriticPasses.can_pass(networks.critic):
            self._passes = FusedCriticPasses(fused)
        # A fused pass cannot be compiled into another function.
        sample_inputs = prepare(self.sample_inputs) if fused is None else self.sample_inputs
        self._sample_inputs: Callable[..., tuple[Tensor, Tensor]] = sample_inputs
        self._predict_clean: Callable[..., tuple[Tensor, Tensor, Tensor]] = prepare(self.predict_clean)
        self._judge_clean: Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]] = prepare(self.judge_clean)

    @torch.no_grad()
    def critic_terms(self, batch: Batch, noise: StepNoise) -> CriticTerms:
        """Return the TD loss with its gradients; targets are constants."""
        o, n = self.options, self.networks
        inputs, next_inputs = self._sample_inputs(batch, noise)
        next_q = self._passes.values(n.target_critic, next_inputs)
        if o.backup_choice == "critic":
            next_q = max_over_actions(next_q, o.num_backup_actions)
        else:
            next_q = best_of_actions(next_q, o.num_backup_actions, o.q_aggregation, o.lcb_coef)
        target = td_target(batch.reward, batch.terminated, batch.steps, next_q, o.discount)
        if o.target_bounds is not None:
            target = target.clamp(*o.target_bounds)
        loss, q, gradients = self._passes.td_gradients(n.critic, inputs, target)
        return CriticTerms(loss, q, target, gradients)

    @torch.no_grad()
    def sample_inputs(self, batch: Batch, noise: StepNoise) -> tuple[Tensor, Tensor]:
        """Return what the critics see of (s, a), shape (batch, observation_dim + action_dim), and of s' with sampled a'.

        The second has ``num_backup_actions`` rows per next state, next to each other.
        """
        n = self.networks
        next_observation = n.normalizer(batch.next_observation)
        next_observation = next_observation.repeat_interleave(self.options.num_backup_actions, dim=0)
        fused = None
        if self._fused is not None:
            assert isinstance(n.ema_actor.network, NoiseNetwork)
            fused = fused_noise_network(n.ema_actor.network, self._fused)
        next_action = n.ema_actor.sample(next_observation, noise.next_action, fused)
        inputs = torch.cat([n.normalizer(batch.observation), batch.action], dim=-1)
        return inputs, torch.cat([next_observation, next_action], dim=-1)

    def actor_terms(
        self, batch: Batch, noise: StepNoise, weights: Tensor | None = None, mean_magnitude: Tensor | None = None
    ) -> ActorTerms:
        """Return behaviour loss, value and entropy of the one-step prediction; one network pass serves all three.

        The terms carry gradients for the actor alone.

        Args:
            batch: The rows.
            noise: Their noise.
            weights: What rows count for in the behaviour loss, mean 1 over the global batch, shape (batch,); None if the same.
            mean_magnitude: Mean magnitude of Q-values over the global batch, scalar; needed where ``q_scale`` is ``state``.
        """
        bc_loss, clean, observation = self._predict_clean(batch, noise, weights)
        q = derivative = None
        if self.options.eta != 0:
            action = clean.detach().clamp(-1.0, 1.0)
            inputs = torch.cat([observation, action], dim=-1)
            q, derivative = self._passes.action_values(self.networks.critic, inputs, action.shape[-1])
        judged = self._judge_clean(clean, observation, noise, q, derivative, mean_magnitude)
        if self.options.entropy == "none":
            coef = clean.new_zeros(())
        else:  # changes between steps: not part of what is compiled
            coef = self.entropy_coef(observation[: noise.entropy.shape[1]])
        policy, errors = self.networks.actor, None
        if policy.prediction_error is not None:
            errors = squared_error_sums(policy.clip(clean.detach()), batch.action, noise.time, policy.sde.num_steps, weights)
        return ActorTerms(bc_loss, *judged, coef, errors)

    def predict_clean(self, batch: Batch, noise: StepNoise, weights: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the behaviour loss (scalar), the one-step prediction a0hat and the normalised observation."""
        policy = self.networks.actor
        observation = self.networks.normalizer(batch.observation)
        noisy = policy.sde.diffuse(batch.action, noise.time, noise.action)
        predicted = policy.network(noisy, noise.time, observation)
        kind = self.options.bc_loss
        bc_loss = policy.behavior_loss(batch.action, noisy, noise.time, noise.action, predicted, kind, weights)
        return bc_loss, policy.sde.predict_clean(noisy, noise.time, predicted), observation

    def judge_clean(
        self,
        clean: Tensor,
        observation: Tensor,
        noise: StepNoise,
        q: Tensor | None,
        derivative: Tensor | None,
        mean_magnitude: Tensor | None,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return value, its scale, entropy estimates and their scale, as in ``ActorTerms``.

        ``q`` are the critics' values of clip(a0hat), ``derivative`` their derivatives by it; None where eta is 0. The mean
        magnitude is that of ``actor_terms``.
        """
        o = self.options
        value = value_scale = entropy = clean.new_zeros(())
        entropy_scale = clean.new_ones(())
        if q is not None and derivative is not None:
            values = with_action_gradient(q, derivative, clean.clamp(-1.0, 1.0))
            value = aggregate_q(values, o.q_aggregation, o.lcb_coef)
            weights = q_time_weights(self.networks.actor.sde, noise.time, o.q_time_weight)
            value = value if weights is None else weights * value
            if o.q_scale == "state":
                assert mean_magnitude is not None
                value, value_scale = value / state_scales(q, mean_magnitude), clean.new_ones(())
            else:
                value_scale = q.abs().mean()
            value = value.mean()
        if o.entropy != "none":
            entropy = self.networks.actor.entropy(o.entropy, clean, observation, noise.entropy)
            if UNIT_OF_ENTROPY[o.entropy] == "mean magnitude":
                entropy_scale = entropy.detach().abs().mean()
        return value, value_scale, entropy, entropy_scale
