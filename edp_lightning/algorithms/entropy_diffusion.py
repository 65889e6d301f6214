"""The LightningModule: holds the networks and orders one gradient step. The maths is in policy, losses and diffusion."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ParamSpec, TypeVar

import lightning as L
import torch
from torch import Tensor

from edp_lightning.acceleration.compilation import compile_or_eager, start_step
from edp_lightning.acceleration.native.perceptrons import FusedPerceptrons, fused_perceptrons
from edp_lightning.acceleration.precision import HiddenPrecision, hidden_dtype
from edp_lightning.algorithms.losses import ActorTerms, BackupChoice, CriticTerms, actor_loss, normalized
from edp_lightning.algorithms.noise import NoiseSource
from edp_lightning.algorithms.objectives import Networks, ObjectiveOptions, Objectives
from edp_lightning.algorithms.optimization import LRSchedule, apply_gradients, learning_rate, loss_gradients, set_learning_rate
from edp_lightning.data.transitions import Batch
from edp_lightning.diffusion import MeanRevertingSDE, ScheduleName
from edp_lightning.networks.ensemble import QAggregation, QEnsemble
from edp_lightning.networks.noise_network import NoiseNetwork
from edp_lightning.networks.scaling import ActionScaler, ObservationNormalizer
from edp_lightning.policies.acting import ActionChooser, Choice
from edp_lightning.policies.diffusion import BehaviorLoss, DiffusionPolicy, EntropyEstimator, ReverseVariance, entropy_draws
from edp_lightning.policies.prediction_error import PredictionError
from edp_lightning.runs.compatibility import agreed_width, check_checkpoint, check_model, check_trainer
from edp_lightning.runs.rng import stream_seed

P = ParamSpec("P")
R = TypeVar("R")


class EntropyDiffusionPolicy(L.LightningModule):
    """Entropy-regularised diffusion policy with a Q-ensemble (Zhang et al., NeurIPS 2024, arXiv 2402.04080).

    One batch is one gradient step of the critics and then of the actor. Target critics and EMA actor are changed by
    ``TargetNetworkUpdate`` only, the entropy coefficient by ``EntropyCoefficientTuning`` only.

    Args:
        observation_dim: Width of an observation; taken from the dataset when not given.
        action_dim: Width of an action; taken from the dataset when not given.
        hidden_dims: Widths of the hidden layers of actor and critics.
        num_critics: Number of critics M.
        num_diffusion_steps: Number of diffusion steps T.
        schedule: Shape of the diffusion's speed over its steps.
        bc_loss: Behaviour loss: ``noise_matching`` or the paper's ``likelihood`` (see ``DiffusionPolicy.behavior_loss``).
        clip_start: Clip one-step predictions to the action box.
        reverse_variance: Variance of the sampling chain's steps: ``posterior`` (the paper), or ``matched`` to what one-step
            predictions leave open, without which few steps return far less spread than the data have (see ``DiffusionPolicy``).
        discount: Discount per environment step.
        eta: Weight of the Q term (eta in the paper); 0 trains behaviour cloning.
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
        actor_lr: Adam learning rate of the actor.
        critic_lr: Adam learning rate of the critics.
        lr_schedule: ``constant``, or ``cosine`` to zero at ``trainer.max_steps``, changed every step.
        gradient_clip_val: Bound on the joint gradient norm of the critics, and of the actor; null for none.
        hidden_precision: Precision of the hidden layers' products; heads, losses and optimizers are float32. ``auto`` is
            ``bfloat16`` where the device multiplies in it much faster, and ``float32`` elsewhere.
        compile: Compile the functions of a gradient step, and on a CPU those that choose actions, with ``torch.compile``, where
            a compiler is found. In bfloat16 on processors with AMX or AVX-512 BF16, fused passes take the place of most.
        seed: Seed of all noise in training and of candidate choice in prediction.
    """

    def __init__(
        self,
        observation_dim: int | None = None,
        action_dim: int | None = None,
        hidden_dims: Sequence[int] = (256, 256, 256),
        num_critics: int = 64,
        num_diffusion_steps: int = 5,
        schedule: ScheduleName = "cosine",
        bc_loss: BehaviorLoss = "noise_matching",
        clip_start: bool = True,
        reverse_variance: ReverseVariance = "posterior",
        discount: float = 0.99,
        eta: float = 1.0,
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
        actor_lr: float = 3.0e-4,
        critic_lr: float = 3.0e-4,
        lr_schedule: LRSchedule = "constant",
        gradient_clip_val: float | None = 4.0,
        hidden_precision: HiddenPrecision = "float32",
        compile: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        hidden_dims = list(hidden_dims)
        self.save_hyperparameters()
        check_model(self.hparams)
        self.automatic_optimization = False
        self.strict_loading = True
        self.eta = eta
        self.entropy = entropy
        self.q_aggregation: QAggregation = q_aggregation
        self.lcb_coef = lcb_coef
        self.num_backup_actions = num_backup_actions if max_q_backup else 1
        self.num_candidates = num_candidates
        self.candidate_temperature = candidate_temperature
        self.lr_schedule: LRSchedule = lr_schedule
        self.gradient_clip_val = gradient_clip_val
        self.seed = seed
        self.register_buffer("log_entropy_coef", torch.tensor(entropy_coef).log())
        self.entropy_coef_of_state: Callable[[Tensor], Tensor] | None = None
        self._noise: NoiseSource | None = None

    log_entropy_coef: Tensor

    def setup(self, stage: str) -> None:
        """Refuse, before any process group or wrapper exists, what this module's gradient step cannot run under."""
        check_trainer(self.trainer)

    def configure_model(self) -> None:
        """Build the networks once the widths are known, and take scales over from the dataset."""
        if hasattr(self, "actor"):
            return
        data = None if self._trainer is None else getattr(self.trainer, "datamodule", None)
        for name in ("observation_dim", "action_dim"):
            self.hparams[name] = agreed_width(name, self.hparams[name], getattr(data, name, None), getattr(data, "dataset", ""))
        h: Any = self.hparams
        device = self.device if self._trainer is None else self.trainer.strategy.root_device
        dtype = hidden_dtype(h.hidden_precision, device)
        self.normalizer = ObservationNormalizer(h.observation_dim)
        self.action_scaler = ActionScaler(h.action_dim)
        if data is not None:
            self.normalizer.set(data.observation_mean.to(self.device), data.observation_std.to(self.device))
            self.action_scaler.set(data.action_low.to(self.device), data.action_high.to(self.device))
        network = NoiseNetwork(h.observation_dim, h.action_dim, h.hidden_dims, dtype)
        sde = MeanRevertingSDE(h.num_diffusion_steps, h.schedule)
        error = PredictionError(h.num_diffusion_steps, h.action_dim) if h.reverse_variance == "matched" else None
        self.actor = DiffusionPolicy(network, sde, h.clip_start, error)
        self.critic = QEnsemble(h.observation_dim, h.action_dim, h.num_critics, h.hidden_dims, dtype)
        self.ema_actor = copy.deepcopy(self.actor).requires_grad_(False)
        self.ema_actor.prediction_error = error  # one estimate, for whichever of the two samples
        self.target_critic = copy.deepcopy(self.critic).requires_grad_(False)
        self.prepare_step(compiled=False)
        # On a GPU, the compiled form for any number of rows is not measured.
        compiled = h.compile and device.type == "cpu"
        self._chooser = ActionChooser(self._prepare(compiled, dynamic=True), self._fused(compiled))

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Return Adam for the critics (the one Lightning counts) and for the actor."""
        return [
            torch.optim.Adam(self.critic.parameters(), lr=self.hparams["critic_lr"], fused=True),
            torch.optim.Adam(self.actor.parameters(), lr=self.hparams["actor_lr"], fused=True),
        ]

    def on_fit_start(self) -> None:
        """Prepare the noise source and, if wanted, the compiled losses."""
        h: Any = self.hparams
        self._noise = NoiseSource(
            self.seed,
            h.num_diffusion_steps,
            h.action_dim,
            self.num_backup_actions,
            entropy_draws(self.entropy, h.num_diffusion_steps),
            self.device,
            h.entropy_states,
            self.actor.num_draws,
        )
        self.prepare_step(compiled=h.compile)

    def prepare_step(self, compiled: bool) -> None:
        """Choose whether the pure functions of a gradient step are compiled for this module's device."""
        names = ("bc_loss", "eta", "entropy", "q_aggregation", "lcb_coef", "discount", "backup_choice")
        options = ObjectiveOptions(**{n: self.hparams[n] for n in names}, num_backup_actions=self.num_backup_actions)
        networks = Networks(self.normalizer, self.actor, self.ema_actor, self.critic, self.target_critic)
        prepare, fused = self._prepare(compiled, dynamic=False), self._fused(compiled)
        self.objectives = Objectives(networks, options, self.entropy_coef, prepare, fused)

    def _prepare(self, compiled: bool, dynamic: bool) -> Callable[[Callable[P, R]], Callable[P, R]]:
        """Return a function that compiles others for this module's device, or leaves them as they are."""

        def prepare(function: Callable[P, R]) -> Callable[P, R]:
            return compile_or_eager(function, self.device, dynamic) if compiled else function

        return prepare

    def _fused(self, compiled: bool) -> FusedPerceptrons | None:
        """Return the passes made for this processor and the networks' precision, if there are any."""
        on_cpu = self.device.type == "cpu"
        return fused_perceptrons() if compiled and on_cpu and self.critic.hidden_dtype == torch.bfloat16 else None

    def entropy_coef(self, observation: Tensor) -> Tensor:
        """Return alpha: one scalar, or per normalised observation (states, observation_dim) if it is tuned so: (states,)."""
        if self.entropy_coef_of_state is None:
            return self.log_entropy_coef.exp()
        return self.entropy_coef_of_state(observation).detach()

    def actor_loss(self, terms: ActorTerms) -> Tensor:
        """Return the actor loss of this rank's batch, its terms weighed against magnitudes over the global batch."""
        value_scale, entropy_scale = self.mean_over_ranks(torch.stack([terms.value_scale, terms.entropy_scale]))
        return actor_loss(terms, value_scale, entropy_scale, self.eta)

    def mean_over_ranks(self, value: Tensor) -> Tensor:
        """Return the mean of a tensor over all ranks; the tensor itself on one device."""
        if self._trainer is None or self.trainer.world_size == 1:
            return value
        reduced = self.trainer.strategy.reduce(value.detach().clone(), reduce_op="mean")
        assert isinstance(reduced, Tensor)
        return reduced

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Take one gradient step of the critics, then of the actor.

        Returns:
            ``entropy``: estimates of this rank's first states, (entropy_states,), for the tuning callback. ``watched``: named
            scalars that must be finite, ``gradient_norms``: by network, the norm of each parameter's gradient, and
            ``q``: Q-values of this rank, (num_critics, batch), for ``NumericsGuard``.
        """
        assert self._noise is not None
        critic_optimizer = self.optimizers()[0]  # type: ignore[index]
        # Lightning counts steps of wrapped optimizers. Only the critics' is, so global_step means gradient steps.
        actor_optimizer = self.optimizers(use_pl_optimizer=False)[1]  # type: ignore[index]
        for optimizer, name in ((critic_optimizer, "critic_lr"), (actor_optimizer, "actor_lr")):
            rate = learning_rate(self.hparams[name], self.lr_schedule, self.global_step, self.trainer.max_steps)
            set_learning_rate(optimizer, rate)
        log_now = (self.global_step + 1) % self.trainer.log_every_n_steps == 0  # type: ignore[attr-defined]
        noise = self._noise.draw(self.global_step, len(batch.action), self.global_rank, self.trainer.world_size)
        start_step(self.device)

        critic = self.objectives.critic_terms(batch, noise)
        critic_norms = apply_gradients(critic_optimizer, self.critic, critic.gradients, self.gradient_clip_val)
        terms = self.objectives.actor_terms(batch, noise)
        loss = self.actor_loss(terms)
        actor_norms = apply_gradients(actor_optimizer, self.actor, loss_gradients(loss, self.actor), self.gradient_clip_val)
        if self.actor.prediction_error is not None and terms.squared_errors is not None:
            self.actor.prediction_error.update(self.mean_over_ranks(terms.squared_errors))
        watched = {
            "critic/loss": critic.loss,
            "critic/gradient_norm": critic_norms.joint,
            "actor/loss": loss.detach(),
            "actor/gradient_norm": actor_norms.joint,
        }
        if log_now:
            self._log_step(watched, critic, terms)
        return {
            "entropy": terms.entropy.detach(),
            "watched": watched,
            "gradient_norms": {"critic": critic_norms.tensors, "actor": actor_norms.tensors},
            "q": critic.q,
        }

    def _log_step(self, watched: dict[str, Tensor], critic: CriticTerms, terms: ActorTerms) -> None:
        q = critic.q
        values = watched | {
            "critic/q_mean": q.mean(),
            "critic/q_std": q.std(dim=0).mean() if len(q) > 1 else q.new_zeros(()),
            "critic/target": critic.target.mean(),
            "actor/bc_loss": terms.bc_loss.detach(),
            "actor/q_loss": normalized(terms.value.detach(), terms.value_scale) if self.eta != 0 else terms.value,
            "actor/entropy": terms.entropy.detach().mean(),
            "actor/entropy_coef": terms.entropy_coef.mean(),
        }
        reduced = self.mean_over_ranks(torch.stack(list(values.values())))
        named = dict(zip(values, reduced, strict=True))
        self.log_dict(named, logger=False)  # for callbacks and the progress bar
        # Lightning would hand them to the logger only after on_train_batch_end, where checkpoints are saved: a run killed
        # in between would lack this step's numbers for ever.
        for logger in self.loggers:
            logger.log_metrics({name: float(value) for name, value in named.items()}, step=self.global_step - 1)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Do nothing: policies are judged in the environment, by ``EnvironmentEvaluation``."""

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Do nothing: policies are judged in the environment, by ``EnvironmentEvaluation``."""

    def predict_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Return one action per observation (batch, observation_dim), in the environment's units: (batch, action_dim)."""
        generator = torch.Generator().manual_seed(stream_seed(self.seed, "predict", batch_idx))
        return self.act(batch, [generator] * len(batch))

    @torch.no_grad()
    def act(self, observation: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Choose one action per observation; all candidates of all rows go through the networks together.

        Args:
            observation: Observations as the environment gives them, shape (batch, observation_dim).
            generators: One CPU generator per row: an episode's draws do not depend on which episodes run beside it.

        Returns:
            Actions in the environment's units, shape (batch, action_dim).
        """
        count, draws, width = self.num_candidates, self.actor.num_draws, self.hparams["action_dim"]
        normal = torch.stack([torch.randn(draws, count, width, generator=g) for g in generators], dim=1).to(self.device)
        uniform = torch.stack([torch.rand(count, generator=g) for g in generators]).to(self.device)
        state = self.normalizer(observation.to(self.device))
        choice = Choice(count, self.candidate_temperature, self.q_aggregation, self.lcb_coef)
        action = self._chooser.choose(self.actor, self.target_critic, state, normal, uniform, choice)
        in_units: Tensor = self.action_scaler(action)
        return in_units

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Refuse a checkpoint whose widths differ from this model's, with their numbers."""
        saved = checkpoint.get("hyper_parameters", {})
        check_checkpoint(saved, self.hparams, ("observation_dim", "action_dim", "num_critics"))
