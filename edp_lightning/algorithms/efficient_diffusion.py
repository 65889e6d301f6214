"""Efficient diffusion policy with implicit Q-learning (IQL+EDP): advantages weigh a diffusion policy's one-step prediction."""

import copy
import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from edp_lightning.acceleration.compilation import preparation
from edp_lightning.algorithms.candidates import CandidateChoice
from edp_lightning.algorithms.inspection import Critics, Follower, StepReport
from edp_lightning.algorithms.iql import critic_loss, state_values, value_loss
from edp_lightning.algorithms.losses import exponential_weights, td_target
from edp_lightning.algorithms.offline_algorithm import OfflineAlgorithm
from edp_lightning.algorithms.optimization import Learner, LRSchedule
from edp_lightning.data.transitions import Batch
from edp_lightning.diffusion import DDPM
from edp_lightning.errors import UserError
from edp_lightning.networks.ensemble import QEnsemble
from edp_lightning.networks.initialization import LECUN
from edp_lightning.networks.noise_network import NoiseNetwork
from edp_lightning.networks.perceptron import Perceptron
from edp_lightning.policies.acting import Choice
from edp_lightning.policies.diffusion import DiffusionPolicy
from edp_lightning.policies.solved_diffusion import SolvedDiffusionPolicy

Sampler = Literal["ddpm", "dpm_solver"]


class EfficientDiffusionIQL(CandidateChoice):
    """IQL+EDP (Kang et al., NeurIPS 2023, arXiv 2305.20081), as its released code computes it with the loss ``IQL``.

    One batch is one gradient step of the value function, of the actor and of the critics; both see the new value function.

    Args:
        hidden_dims: Widths of the hidden layers (Mish) of all networks.
        num_critics: Critics, whose minimum counts.
        discount: Discount per environment step.
        expectile: tau of the value function's loss, in (0, 1).
        inverse_temperature: Of the actor's weights exp(beta (Q - V)); 0 weighs all actions the same.
        max_weight: Upper bound of these weights.
        diffusion_coef: Weight of the noise-matching loss.
        guide_coef: Weight of the advantage-weighted loss.
        num_diffusion_steps: Number of diffusion steps T, more than 20.
        sampler: ``ddpm`` runs the whole chain for an action; ``dpm_solver`` solves the differential equation instead (the
            released code trains with T = 1000 then).
        solver_passes: Passes through the network of ``dpm_solver``.
        num_candidates: Actions sampled per decision, among which the critics choose.
        candidate_temperature: Temperature of the softmax over the candidates' values; 0 takes the best.
        value_lr: Adam learning rate of the value function.
        critic_lr: Adam learning rate of the critics.
        actor_lr: Adam learning rate of the actor.
        actor_lr_schedule: ``constant``, or ``cosine`` to zero at ``trainer.max_steps``, changed every step; or ``cooldown``.
        kwargs: Options of every algorithm.
    """

    at_least = OfflineAlgorithm.at_least | {
        **dict.fromkeys(("expectile", "inverse_temperature", "max_weight", "diffusion_coef", "guide_coef", "value_lr"), 0),
        "solver_passes": 1,
    }
    at_most = OfflineAlgorithm.at_most | {"expectile": 1}
    fixed_options = (*OfflineAlgorithm.fixed_options, "num_critics", "hidden_dims", "num_diffusion_steps")

    def __init__(
        self,
        hidden_dims: Sequence[int] = (256, 256, 256),
        num_critics: int = 2,
        discount: float = 0.99,
        expectile: float = 0.7,
        inverse_temperature: float = 3.0,
        max_weight: float = 100.0,
        diffusion_coef: float = 1.0,
        guide_coef: float = 1.0,
        num_diffusion_steps: int = 100,
        sampler: Sampler = "ddpm",
        solver_passes: int = 15,
        num_candidates: int = 50,
        candidate_temperature: float = 1.0,
        value_lr: float = 3.0e-4,
        critic_lr: float = 3.0e-4,
        actor_lr: float = 3.0e-4,
        actor_lr_schedule: LRSchedule = "constant",
        **kwargs: Any,
    ) -> None:
        hidden_dims = list(hidden_dims)
        super().__init__(**kwargs)
        if num_diffusion_steps <= 20:
            raise UserError(
                f"the noise of this diffusion's last step is 20 / num_diffusion_steps, which must be below 1 but "
                f"model.num_diffusion_steps is {num_diffusion_steps}: set it to more than 20 (the released code uses 100)"
            )

    def build(self, observation_dim: int, action_dim: int) -> None:
        """Create actor, value function and critics with their targets."""
        h: Any = self.hparams
        network = NoiseNetwork(observation_dim, action_dim, h.hidden_dims, self.hidden_dtype, False, LECUN)
        process = DDPM(h.num_diffusion_steps, "linear")
        if h.sampler == "ddpm":
            self.actor = DiffusionPolicy(network, process, clip_start=True)
        else:
            self.actor = SolvedDiffusionPolicy(network, process, h.solver_passes)
        options: Any = {"activation": "mish", "init": LECUN, "hidden_dtype": self.hidden_dtype}
        self.value = Perceptron(observation_dim, h.hidden_dims, 1, **options)
        self.critic = QEnsemble(observation_dim, action_dim, h.num_critics, h.hidden_dims, **options)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.build_chooser()

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
        self._actor_losses = prepare(partial(_actor_losses, inverse_temperature=h.inverse_temperature, max_weight=h.max_weight))
        self._critic_loss = prepare(partial(critic_loss, reduction="sum"))

    def draw_noise(self, step: int, rows: int) -> tuple[Tensor, Tensor]:
        """Return diffusion times U{1..T} (rows,) and noise (rows, action_dim) of a gradient step."""
        noise = self.row_noise(step)
        return noise.integers(1, self.hparams["num_diffusion_steps"] + 1, rows), noise.normal(rows, self.action_dim)

    def step_on(self, batch: Batch, noise: tuple[Tensor, Tensor]) -> StepReport:
        """Take one gradient step of the value function, of the actor and of the critics."""
        h: Any = self.hparams
        observation, following = self.normalizer(batch.observation), self.normalizer(batch.next_observation)
        with torch.no_grad():
            target_q = self.target_critic(observation, batch.action).amin(0)
        regression, _ = self._value_loss(self.value, observation, target_q)
        self.update("value", regression)
        value, next_value = self._values(self.value, observation, following)
        advantage = target_q - value
        matching, guide = self._actor_losses(self.actor, observation, batch.action, *noise, advantage)
        self.update("actor", h.diffusion_coef * matching + h.guide_coef * guide)
        target = td_target(batch.reward, batch.terminated, batch.steps, next_value, h.discount)
        loss, q = self._critic_loss(self.critic, observation, batch.action, target)
        self.update("critic", loss)

        def metrics() -> dict[str, Tensor]:
            return {
                "value/mean": value.mean(),
                "actor/advantage": advantage.mean(),
                "actor/bc_loss": matching.detach(),
                "actor/guide_loss": guide.detach(),
                "critic/q_mean": q.detach().mean(),
                "critic/target": target.mean(),
            }

        return StepReport(metrics, q.detach())

    def choose(self, observation: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Return the action that the critics under training choose among the actor's draws."""
        h: Any = self.hparams
        choice = Choice(h.num_candidates, h.candidate_temperature, "min", 0.0)
        return self.choose_among(self.actor, self.critic, observation, generators, choice)

    def draw_actions(self, observation: Tensor, generator: torch.Generator) -> Tensor:
        """Return one draw of the actor per observation, without candidates."""
        return self.actor.draw(observation, generator)

    @property
    def critics(self) -> Critics:
        """The critics, judged by their minimum."""
        return Critics.by_minimum(self.target_critic, self.critic)

    def decision_facts(self) -> dict[str, Any]:
        """Return how many candidates there were, how one was chosen, and how they were drawn."""
        h: Any = self.hparams
        facts = {"candidates": h.num_candidates, "candidate_temperature": h.candidate_temperature, "sampler": h.sampler}
        return facts | ({"solver_passes": h.solver_passes} if h.sampler == "dpm_solver" else {})


def _actor_losses(
    policy: DiffusionPolicy,
    observation: Tensor,
    action: Tensor,
    t: Tensor,
    noise: Tensor,
    advantage: Tensor,
    inverse_temperature: float,
    max_weight: float,
) -> tuple[Tensor, Tensor]:
    """Return the noise-matching loss, and the weighted loss -mean w log N(a; a0hat, I), w = min(exp(beta A), max_weight)."""
    noisy = policy.sde.diffuse(action, t, noise)
    predicted = policy.network(noisy, t, observation)
    matching = policy.behavior_loss(action, noisy, t, noise, predicted, "noise_matching")
    clean = policy.predict_clean(noisy, t, predicted)
    log_prob = -0.5 * ((action - clean).square() + math.log(2 * math.pi)).sum(-1)
    weight = exponential_weights(advantage, inverse_temperature, max_weight)
    return matching, -(weight * log_prob).mean()
