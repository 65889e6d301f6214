"""IDQL: values by implicit Q-learning, a diffusion policy that clones the data, and a choice among its draws."""

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from edp_lightning.acceleration.compilation import preparation
from edp_lightning.algorithms.candidates import CandidateChoice
from edp_lightning.algorithms.inspection import Critics, Follower, StepReport
from edp_lightning.algorithms.iql import critic_loss, state_values, value_loss
from edp_lightning.algorithms.losses import td_target
from edp_lightning.algorithms.offline_algorithm import OfflineAlgorithm
from edp_lightning.algorithms.optimization import Learner, LRSchedule, decayed_adam
from edp_lightning.data.transitions import Batch
from edp_lightning.diffusion import DDPM
from edp_lightning.errors import UserError
from edp_lightning.networks.ensemble import QEnsemble
from edp_lightning.networks.initialization import XAVIER
from edp_lightning.networks.perceptron import NORM_EPS, Perceptron
from edp_lightning.networks.residual_network import ResidualNoiseNetwork, SmoothActivation
from edp_lightning.policies.acting import Choice
from edp_lightning.policies.diffusion import DiffusionPolicy


class IDQLNoise(NamedTuple):
    """Noise of one gradient step; ``batch`` rows belong to this rank.

    Attributes:
        time: Diffusion times, U{1..T}, long, shape (batch,).
        action: Noise of the actions, shape (batch, action_dim).
        kept: Dropout factors of each block, shapes (batch, width); empty without dropout.
    """

    time: Tensor
    action: Tensor
    kept: list[Tensor]


class IDQL(CandidateChoice):
    """IDQL (Hansen-Estruch et al. 2023, arXiv 2304.10573) as its released code computes it since December 2023.

    One batch is one gradient step of the actor, of the value function and of the critics. The actor clones the data; critics
    enter only when it acts.

    Args:
        hidden_dims: Widths of the hidden layers (ReLU) of value function and critics.
        num_critics: Critics, whose minimum counts.
        discount: Discount per environment step.
        expectile: tau of the value function's loss, in (0, 1).
        value_input_norm: Normalise each observation (LayerNorm) before the value function's first layer.
        num_diffusion_steps: Number of diffusion steps T.
        width: Width of the actor's residual blocks.
        num_blocks: Number of them.
        time_features: Fourier features of the diffusion time, even.
        time_hidden_dims: Widths of the perceptron on them.
        activation: Of the actor.
        actor_dropout: Probability that an entry of a block's input is dropped in training.
        weight_decay: Of the actor, per unit of learning rate (AdamW).
        num_candidates: N: actions sampled per decision, of which the one with the highest minimum of the target critics is
            taken. 1 is diffusion behaviour cloning.
        value_lr: Adam learning rate of the value function.
        critic_lr: Adam learning rate of the critics.
        actor_lr: AdamW learning rate of the actor.
        actor_lr_schedule: ``cosine`` to zero at ``trainer.max_steps``, changed every step, ``constant`` or ``cooldown``.
        kwargs: Options of every algorithm.
    """

    at_least = OfflineAlgorithm.at_least | {
        **dict.fromkeys(("expectile", "actor_dropout", "weight_decay", "value_lr"), 0),
        **dict.fromkeys(("width", "num_blocks", "time_hidden_dims"), 1),
        **dict.fromkeys(("time_features", "num_diffusion_steps"), 2),
    }
    at_most = OfflineAlgorithm.at_most | {"expectile": 1, "actor_dropout": 0.99}
    fixed_options = (
        *(*OfflineAlgorithm.fixed_options, "num_critics", "hidden_dims", "width", "num_blocks"),
        *("time_features", "time_hidden_dims", "num_diffusion_steps", "activation", "value_input_norm"),
    )

    def __init__(
        self,
        hidden_dims: Sequence[int] = (256, 256),
        num_critics: int = 2,
        discount: float = 0.99,
        expectile: float = 0.7,
        value_input_norm: bool = True,
        num_diffusion_steps: int = 5,
        width: int = 256,
        num_blocks: int = 3,
        time_features: int = 128,
        time_hidden_dims: Sequence[int] = (256, 256),
        activation: SmoothActivation = "swish",
        actor_dropout: float = 0.1,
        weight_decay: float = 1.0e-4,
        num_candidates: int = 64,
        value_lr: float = 3.0e-4,
        critic_lr: float = 3.0e-4,
        actor_lr: float = 3.0e-4,
        actor_lr_schedule: LRSchedule = "cosine",
        **kwargs: Any,
    ) -> None:
        hidden_dims, time_hidden_dims = list(hidden_dims), list(time_hidden_dims)
        super().__init__(**kwargs)
        if time_features % 2:
            raise UserError(f"model.time_features are sines and cosines, as many of each: make it even; got {time_features}")

    def build(self, observation_dim: int, action_dim: int) -> None:
        """Create actor, its average, value function and critics with their targets."""
        h: Any = self.hparams
        times = h.time_features, h.time_hidden_dims, h.activation
        network = ResidualNoiseNetwork(observation_dim, action_dim, h.width, h.num_blocks, *times, self.hidden_dtype)
        process = DDPM(h.num_diffusion_steps, "vp", "beta")
        self.actor = DiffusionPolicy(network, process, clip_start=False, clip_steps=True)
        self.ema_actor = copy.deepcopy(self.actor).requires_grad_(False)
        body = Perceptron(observation_dim, h.hidden_dims, 1, init=XAVIER, hidden_dtype=self.hidden_dtype)
        self.value: nn.Module = nn.Sequential(nn.LayerNorm(observation_dim, NORM_EPS), body) if h.value_input_norm else body
        sizes = observation_dim, action_dim, h.num_critics, h.hidden_dims
        self.critic = QEnsemble(*sizes, self.hidden_dtype, "relu", XAVIER)
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.build_chooser(fused=False)

    def learners(self) -> dict[str, Learner]:
        """Return actor, value function and critics."""
        h: Any = self.hparams
        decayed = partial(decayed_adam, weight_decay=h.weight_decay)
        return {
            "actor": Learner(h.actor_lr, h.actor_lr_schedule, optimizer=decayed),
            "value": Learner(h.value_lr),
            "critic": Learner(h.critic_lr),
        }

    def target_networks(self) -> Sequence[Follower]:
        """Return the target critics."""
        return (Follower(self.target_critic, self.critic),)

    def ema_networks(self) -> Sequence[Follower]:
        """Return the actor that acts."""
        return (Follower(self.ema_actor, self.actor),)

    def prepare_step(self, compiled: bool) -> None:
        """Choose whether the functions of a gradient step are compiled for this module's device."""
        prepare = preparation(compiled)
        self._actor_loss = prepare(_actor_loss)
        self._values = prepare(state_values)
        self._value_loss = prepare(partial(value_loss, expectile=self.hparams["expectile"]))
        self._critic_loss = prepare(partial(critic_loss, reduction="mean"))

    def draw_noise(self, step: int, rows: int) -> IDQLNoise:
        """Return the noise of a gradient step for this rank's rows."""
        h: Any = self.hparams
        noise = self.row_noise(step)
        time, action = noise.integers(1, h.num_diffusion_steps + 1, rows), noise.normal(rows, self.action_dim)
        return IDQLNoise(time, action, noise.dropout(rows, [h.width] * h.num_blocks, h.actor_dropout))

    def step_on(self, batch: Batch, noise: IDQLNoise) -> StepReport:
        """Take one gradient step with given noise."""
        observation, following = self.normalizer(batch.observation), self.normalizer(batch.next_observation)
        self.update("actor", self._actor_loss(self.actor, observation, batch.action, *noise))
        with torch.no_grad():
            target_q = self.target_critic(observation, batch.action).amin(0)
        regression, value = self._value_loss(self.value, observation, target_q)
        value = value.detach()
        self.update("value", regression)
        _, next_value = self._values(self.value, observation, following)
        target = td_target(batch.reward, batch.terminated, batch.steps, next_value, self.hparams["discount"])
        loss, q = self._critic_loss(self.critic, observation, batch.action, target)
        self.update("critic", loss)

        def metrics() -> dict[str, Tensor]:
            return {"value/mean": value.mean(), "critic/q_mean": q.detach().mean(), "critic/target": target.mean()}

        return StepReport(metrics, q.detach())

    def choose(self, observation: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Return the best of N draws of the averaged actor by the target critics' minimum."""
        choice = Choice(self.hparams["num_candidates"], 0.0, "min", 0.0)
        return self.choose_among(self.ema_actor, self.target_critic, observation, generators, choice)

    def draw_actions(self, observation: Tensor, generator: torch.Generator) -> Tensor:
        """Return one draw of the averaged actor per observation, without candidates."""
        return self.ema_actor.draw(observation, generator)

    @property
    def critics(self) -> Critics:
        """The critics, judged by their minimum."""
        return Critics.by_minimum(self.target_critic, self.critic)

    @property
    def uses_values(self) -> bool:
        """With one candidate nobody asks the critics."""
        return bool(self.hparams["num_candidates"] > 1)

    def decision_facts(self) -> dict[str, Any]:
        """Return N, without which a score of IDQL says little."""
        return {"candidates": self.hparams["num_candidates"], "candidate_temperature": 0.0}


def _actor_loss(
    policy: DiffusionPolicy, observation: Tensor, action: Tensor, t: Tensor, noise: Tensor, kept: list[Tensor]
) -> Tensor:
    """Return the mean over rows of the summed squared errors of the noise, a scalar."""
    noisy = policy.sde.diffuse(action, t, noise)
    result: Tensor = (policy.network(noisy, t, observation, kept) - noise).square().sum(-1).mean()
    return result
