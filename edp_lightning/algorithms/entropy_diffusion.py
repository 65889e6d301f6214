"""The method: networks and the order of one gradient step. The maths is in policies, objectives, losses and diffusion."""

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from edp_lightning.acceleration.compilation import preparation
from edp_lightning.acceleration.precision import HiddenPrecision
from edp_lightning.algorithms.candidates import CandidateChoice
from edp_lightning.algorithms.inspection import Critics, Follower, StepReport, TunableEntropy
from edp_lightning.algorithms.losses import (
    ActorTerms,
    BackupChoice,
    CriticTerms,
    QScale,
    QTimeWeight,
    actor_loss,
    actor_metrics,
    advantage_weights,
    critic_metrics,
)
from edp_lightning.algorithms.noise import NoiseSource, StepNoise
from edp_lightning.algorithms.objectives import Networks, ObjectiveOptions, Objectives
from edp_lightning.algorithms.offline_algorithm import OfflineAlgorithm
from edp_lightning.algorithms.optimization import Learner, LRSchedule
from edp_lightning.algorithms.option_checks import check_aggregation, check_bounds, check_entropy
from edp_lightning.data.transitions import Batch
from edp_lightning.diffusion import MeanRevertingSDE, ScheduleName
from edp_lightning.networks.ensemble import CriticNorm, QAggregation, QEnsemble, aggregate_q
from edp_lightning.networks.noise_network import NoiseNetwork
from edp_lightning.policies.acting import Choice
from edp_lightning.policies.diffusion import BehaviorLoss, DiffusionPolicy, EntropyEstimator, ReverseVariance, entropy_draws
from edp_lightning.policies.prediction_error import PredictionError


class EntropyDiffusionPolicy(CandidateChoice):
    """Entropy-regularised diffusion policy with a Q-ensemble (Zhang et al., NeurIPS 2024, arXiv 2402.04080).

    One batch is one gradient step of the critics and then of the actor. Target critics and EMA actor are changed by
    ``TargetNetworkUpdate`` only, the entropy coefficient by ``EntropyCoefficientTuning`` only.

    Args:
        observation_dim: Width of an observation; taken from the dataset when not given.
        action_dim: Width of an action; taken from the dataset when not given.
        hidden_dims: Widths of the hidden layers of actor and critics.
        num_critics: Number of critics M.
        critic_norm: ``layer`` normalises what enters the critics' hidden activations (see ``QEnsemble``): values far from the
            data stay bounded. ``none`` as in the paper. With it, fused passes serve the actor only.
        num_diffusion_steps: Number of diffusion steps T.
        schedule: Shape of the diffusion's speed over its steps.
        bc_loss: Behaviour loss: ``noise_matching`` or the paper's ``likelihood`` (see ``DiffusionPolicy.behavior_loss``).
        bc_inverse_temperature: Weighs the rows of the behaviour loss by ``exp(bc_inverse_temperature A / mean|A|)`` (see
            ``losses.advantage_weights``), where the advantage A of a dataset row is the critics' mean TD error: what its
            ``data.n_step`` steps gained over what they expected. 0 clones all rows alike, as the paper.
        clip_start: Clip one-step predictions to the action box.
        reverse_variance: Variance of the sampling chain's steps: ``posterior`` (the paper), or ``matched`` to what one-step
            predictions leave open, without which few steps return far less spread than the data have (see ``DiffusionPolicy``).
        discount: Discount per environment step.
        target_bounds: Least and greatest value that the rewards allow, in units of the scaled reward: [0, 100] where a reward
            of 100 ends the episode. Targets are clipped to them (as in arXiv 1707.01495, appendix A), so that errors in actions
            which the dataset lacks cannot add up beyond. Null (the paper) clips none.
        eta: Weight of the Q term (eta in the paper); 0 trains behaviour cloning.
        q_time_weight: Weight of a row in the Q term by its diffusion time: ``uniform`` (the paper), or ``signal``, the
            signal-to-noise ratio relative to t = 1, as the behaviour loss weighs one-step predictions.
        q_scale: What values in the Q term are divided by: ``batch``, their mean magnitude in the batch (the paper), or
            ``state``, each state's own (see ``losses.state_scales``).
        entropy: Estimator of the entropy term: ``none``, ``reference`` (what the released code computes), ``bridge`` (the
            paper's eq. 14, zero gradient on average) or ``path`` (a differentiable bound).
        entropy_coef: (Initial) weight alpha of the entropy term, above 0: the loss one nat of ``path`` is worth. For
            ``reference`` and ``bridge``, whose terms are divided by their mean magnitude, the loss of their whole size.
        entropy_states: The entropy is estimated on this many states of each batch (per device, like the batch size); all when
            not given. ``path`` costs ``num_diffusion_steps - 1`` passes of the actor on them.
        q_aggregation: Pessimism over critics: ``lcb`` or ``min``.
        lcb_coef: beta of the lower confidence bound.
        max_q_backup: Bootstrap from the best of ``num_backup_actions`` sampled next actions instead of from one.
        num_backup_actions: Number of next actions for ``max_q_backup``.
        backup_choice: Who says which is best: each ``critic`` for itself (the released code), or the ``ensemble`` together by
            its pessimistic value, as when the policy is executed with temperature 0.
        num_candidates: Actions sampled per decision, among which the target critics choose.
        candidate_temperature: Temperature of the softmax over the candidates' values; 0 takes the best.
        execution_noise: Standard deviation of Gaussian noise added to the chosen action, which is in [-1, 1] and clipped to it
            again: it frees a robot that stands where all actions are worth the same. 0 adds none, as the paper.
        actor_lr: Adam learning rate of the actor.
        critic_lr: Adam learning rate of the critics.
        lr_schedule: ``constant``, ``cosine`` to zero at ``trainer.max_steps``, or ``cooldown``: constant, then to zero over the
            last fifth of the run. Changed every step.
        gradient_clip_val: Bound on the joint gradient norm of the critics, and of the actor; null for none.
        hidden_precision: Precision of the hidden layers' products; heads, losses and optimizers are float32. ``auto`` is
            ``bfloat16`` where the device multiplies in it much faster, and ``float32`` elsewhere.
        compile: Compile the functions of a gradient step, and on a CPU those that choose actions, with ``torch.compile``, where
            a compiler is found. In bfloat16 on processors with AMX or AVX-512 BF16, fused passes take the place of most; on
            a GPU the whole step becomes one CUDA graph.
        seed: Seed of all noise in training and of candidate choice in prediction.
    """

    fixed_options = (
        *(*OfflineAlgorithm.fixed_options, "hidden_dims", "num_critics", "critic_norm"),
        *("num_diffusion_steps", "schedule", "clip_start", "reverse_variance"),
    )
    heeds_cloned_rows = True
    at_least = OfflineAlgorithm.at_least | {"execution_noise": 0, "bc_inverse_temperature": 0, "num_diffusion_steps": 2}

    def __init__(
        self,
        observation_dim: int | None = None,
        action_dim: int | None = None,
        hidden_dims: Sequence[int] = (256, 256, 256),
        num_critics: int = 64,
        critic_norm: CriticNorm = "none",
        num_diffusion_steps: int = 5,
        schedule: ScheduleName = "cosine",
        bc_loss: BehaviorLoss = "noise_matching",
        bc_inverse_temperature: float = 0.0,
        clip_start: bool = True,
        reverse_variance: ReverseVariance = "posterior",
        discount: float = 0.99,
        target_bounds: Sequence[float] | None = None,
        eta: float = 1.0,
        q_time_weight: QTimeWeight = "uniform",
        q_scale: QScale = "batch",
        entropy: EntropyEstimator = "reference",
        entropy_coef: float = 0.01,
        entropy_states: int | None = None,
        q_aggregation: QAggregation = "lcb",
        lcb_coef: float = 4.0,
        max_q_backup: bool = False,
        num_backup_actions: int = 10,
        backup_choice: BackupChoice = "critic",
        num_candidates: int = 50,
        candidate_temperature: float = 1.0,
        execution_noise: float = 0.0,
        actor_lr: float = 3.0e-4,
        critic_lr: float = 3.0e-4,
        lr_schedule: LRSchedule = "constant",
        gradient_clip_val: float | None = 4.0,
        hidden_precision: HiddenPrecision = "float32",
        compile: bool = False,
        seed: int = 0,
    ) -> None:
        hidden_dims = list(hidden_dims)
        target_bounds = None if target_bounds is None else list(target_bounds)
        super().__init__(observation_dim, action_dim, gradient_clip_val, hidden_precision, compile, seed)
        check_aggregation(q_aggregation, num_critics)
        check_bounds("target_bounds", target_bounds)
        check_entropy(entropy, entropy_coef, entropy_states, num_diffusion_steps, reverse_variance)
        self.eta = eta
        self.q_scale: QScale = q_scale
        self.bc_inverse_temperature = bc_inverse_temperature
        self.entropy = entropy
        self.q_aggregation: QAggregation = q_aggregation
        self.lcb_coef = lcb_coef
        self.num_backup_actions = num_backup_actions if max_q_backup else 1
        self.num_candidates = num_candidates
        self.candidate_temperature = candidate_temperature
        self.execution_noise = execution_noise
        self.register_buffer("log_entropy_coef", torch.tensor(float(entropy_coef)).log())
        self.entropy_coef_of_state: Callable[[Tensor], Tensor] | None = None
        self._noise: NoiseSource | None = None

    log_entropy_coef: Tensor

    def build(self, observation_dim: int, action_dim: int) -> None:
        """Create actor and critics with their slow copies."""
        h: Any = self.hparams
        network = NoiseNetwork(observation_dim, action_dim, h.hidden_dims, self.hidden_dtype)
        sde = MeanRevertingSDE(h.num_diffusion_steps, h.schedule)
        error = PredictionError(h.num_diffusion_steps, action_dim) if h.reverse_variance == "matched" else None
        self.actor = DiffusionPolicy(network, sde, h.clip_start, error)
        sizes = observation_dim, action_dim, h.num_critics, h.hidden_dims
        self.critic = QEnsemble(*sizes, self.hidden_dtype, norm=h.critic_norm)
        self.ema_actor = copy.deepcopy(self.actor).requires_grad_(False)
        self.ema_actor.prediction_error = error  # one estimate, for whichever of the two samples
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.build_chooser()

    def learners(self) -> dict[str, Learner]:
        """Return the critics, then the actor."""
        h: Any = self.hparams
        return {"critic": Learner(h.critic_lr, h.lr_schedule), "actor": Learner(h.actor_lr, h.lr_schedule)}

    def target_networks(self) -> Sequence[Follower]:
        """Return the target critics."""
        return (Follower(self.target_critic, self.critic),)

    def ema_networks(self) -> Sequence[Follower]:
        """Return the actor that the critics' targets sample from."""
        return (Follower(self.ema_actor, self.actor),)

    def forget_units(self) -> None:
        """Forget how far predictions of actions are off: it was measured in units of actions that no longer hold."""
        if self.actor.prediction_error is not None:
            self.actor.prediction_error.sums.zero_()

    def on_fit_start(self) -> None:
        """Prepare the noise source."""
        super().on_fit_start()
        steps = self.actor.sde.num_steps
        sizes = steps, self.action_dim, self.num_backup_actions, entropy_draws(self.entropy, steps)
        self._noise = NoiseSource(self.seed, *sizes, self.device, self.hparams["entropy_states"], self.actor.num_draws)

    def prepare_step(self, compiled: bool) -> None:
        """Choose whether the pure functions of a gradient step are compiled for this module's device."""
        options = ObjectiveOptions.of(self.hparams, num_backup_actions=self.num_backup_actions)
        networks = Networks(self.normalizer, self.actor, self.ema_actor, self.critic, self.target_critic)
        prepare, fused = preparation(compiled), self.fused_passes(compiled)
        self.objectives = Objectives(networks, options, self.entropy_coef, prepare, fused)

    def entropy_coef(self, observation: Tensor) -> Tensor:
        """Return alpha: one scalar, or per normalised observation (states, observation_dim) if it is tuned so: (states,)."""
        if self.entropy_coef_of_state is None:
            return self.log_entropy_coef.exp()
        return self.entropy_coef_of_state(observation).detach()

    def actor_loss(self, terms: ActorTerms) -> Tensor:
        """Return the actor loss of this rank's batch, its terms weighed against magnitudes over the global batch."""
        value_scale, entropy_scale = self.mean_over_ranks(torch.stack([terms.value_scale, terms.entropy_scale]))
        return actor_loss(terms, value_scale, entropy_scale, self.eta)

    def draw_noise(self, step: int, rows: int) -> StepNoise:
        """Return the noise of this rank's rows."""
        assert self._noise is not None
        return self._noise.draw(step, rows, self.global_rank, self.trainer.world_size)

    def step_on(self, batch: Batch, noise: StepNoise) -> StepReport:
        """Take one gradient step with given noise."""
        critic = self.objectives.critic_terms(batch, noise)
        self.update("critic", critic.loss, critic.gradients)
        mean_magnitude = self.mean_over_ranks(critic.q.abs().mean()) if self.q_scale == "state" else None
        terms = self.objectives.actor_terms(batch, noise, self.behavior_weights(critic), mean_magnitude)
        self.update("actor", self.actor_loss(terms))
        if self.actor.prediction_error is not None and terms.squared_errors is not None:
            self.actor.prediction_error.update(self.mean_over_ranks(terms.squared_errors))
        return StepReport(lambda: critic_metrics(critic) | actor_metrics(terms, self.eta), critic.q, terms.entropy)

    def behavior_weights(self, critic: CriticTerms) -> Tensor | None:
        """Return the weight of this rank's rows in the behaviour loss, mean 1 over the global batch; None for equal ones."""
        if self.bc_inverse_temperature == 0 and self.cloned_rows is None:
            return None
        advantage = (critic.target - critic.q).detach().mean(dim=0)
        scale = self.mean_over_ranks(advantage.abs().mean())
        weights = advantage_weights(advantage, scale, self.bc_inverse_temperature)
        if self.cloned_rows is not None:
            weights = weights * (torch.arange(len(weights), device=weights.device) < self.cloned_rows)
        return weights / self.mean_over_ranks(weights.mean())

    def choose(self, observation: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Return the action that the target critics choose."""
        choice = Choice(self.num_candidates, self.candidate_temperature, self.q_aggregation, self.lcb_coef)
        action = self.choose_among(self.actor, self.target_critic, observation, generators, choice)
        if self.execution_noise == 0:
            return action
        disturbance = torch.stack([torch.randn(self.action_dim, generator=g) for g in generators]).to(action.device)
        return (action + self.execution_noise * disturbance).clamp(-1.0, 1.0)

    def draw_actions(self, observation: Tensor, generator: torch.Generator) -> Tensor:
        """Return one draw of the actor per observation, without candidates."""
        return self.actor.draw(observation, generator)

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Refuse what does not fit; checkpoints from before there was a choice have critics without normalisation."""
        hyper_parameters = {"critic_norm": "none"} | dict(checkpoint.get("hyper_parameters", {}))
        super().on_load_checkpoint(dict(checkpoint) | {"hyper_parameters": hyper_parameters})

    @property
    def critics(self) -> Critics:
        """The ensemble, judged by the pessimistic value that the actor is trained on."""
        pessimistic = partial(aggregate_q, aggregation=self.q_aggregation, lcb_coef=self.lcb_coef)
        return Critics(self.target_critic, self.critic, pessimistic)

    @property
    def uses_values(self) -> bool:
        """Nobody looks at values in plain behaviour cloning."""
        return self.eta != 0 or self.num_candidates > 1 or self.bc_inverse_temperature != 0

    @property
    def tunable_entropy(self) -> TunableEntropy | None:
        """The entropy of the estimator, if there is one."""
        if self.entropy == "none":
            return None
        use = partial(setattr, self, "entropy_coef_of_state")
        coef: float = self.hparams["entropy_coef"]
        return TunableEntropy(self.log_entropy_coef, coef, lambda: self.actor.default_target_entropy(self.entropy), use)

    def decision_facts(self) -> dict[str, Any]:
        """Return how many candidates there were and how one was chosen."""
        facts = {"candidates": self.num_candidates, "candidate_temperature": self.candidate_temperature}
        return facts | ({"execution_noise": self.execution_noise} if self.execution_noise else {})
