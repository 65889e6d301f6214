"""Everything about an algorithm that is not its method."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from edp_lightning.acceleration.native.perceptrons import FusedPerceptrons, fused_perceptrons
from edp_lightning.acceleration.precision import HiddenPrecision, hidden_dtype
from edp_lightning.algorithms.agreement import agree_on_scales, check_shared_options, refuse_unknown_scales, scales_of
from edp_lightning.algorithms.contract import AlgorithmContract
from edp_lightning.algorithms.inspection import StepReport
from edp_lightning.algorithms.necessary import missing_callbacks
from edp_lightning.algorithms.noise import RowNoise
from edp_lightning.algorithms.optimization import (
    Learner,
    apply_gradients,
    loss_gradients,
    mean_over_ranks,
    restate_weight_decay,
    set_learning_rate,
)
from edp_lightning.algorithms.recorded_step import RecordedStep, StepOutputs, why_not_recorded
from edp_lightning.data.transitions import Batch
from edp_lightning.errors import UserError
from edp_lightning.networks.scaling import ActionScaler, ObservationNormalizer
from edp_lightning.option_bounds import check_bounds
from edp_lightning.runs.checkpoint_io import FORMAT_KEY, FORMAT_VERSION
from edp_lightning.runs.compatibility import WIDTHS, agreed_width, check_checkpoint, check_trainer
from edp_lightning.runs.options import changed_options
from edp_lightning.runs.plain import make_plain
from edp_lightning.runs.rng import stream_seed

_WATCHED = ("loss", "gradient_norm")


class OfflineAlgorithm(AlgorithmContract):
    """Base of all algorithms: owns the counting of gradient steps, noise, logging, scales and refusals.

    What a subclass writes, and what it may tell, is in :class:`AlgorithmContract`. One batch is one gradient step of every
    learner.

    Args:
        observation_dim: Width of an observation; taken from the dataset when not given.
        action_dim: Width of an action; taken from the dataset when not given.
        gradient_clip_val: Bound on the joint gradient norm of each learner; null for none.
        hidden_precision: Precision of the hidden layers' products; heads, losses and optimizers are float32. ``auto`` is
            ``bfloat16`` where the device multiplies in it much faster, and ``float32`` elsewhere.
        compile: Compile the functions of a gradient step, and on a CPU those that choose actions, with ``torch.compile``, where
            a compiler is found.
        seed: Seed of all noise in training and of candidate choice in prediction.
    """

    def __init__(
        self,
        observation_dim: int | None = None,
        action_dim: int | None = None,
        gradient_clip_val: float | None = None,
        hidden_precision: HiddenPrecision = "float32",
        compile: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()  # the arguments of the class that is created
        make_plain(self.hparams)
        check_bounds("model", self.hparams, self)
        if gradient_clip_val is not None and gradient_clip_val <= 0:
            raise UserError(
                f"model.gradient_clip_val bounds gradients and must be above 0, or null for no bound; got {gradient_clip_val}"
            )
        self.automatic_optimization = False
        self.gradient_clip_val = gradient_clip_val
        self.hidden_precision: HiddenPrecision = hidden_precision
        self.compiled = compile  # an algorithm need not offer the option: it is not always a hyperparameter
        self.seed = seed
        self._learners: dict[str, Learner] = {}
        self._optimizers_now: dict[str, Any] = {}
        self._watched: dict[str, Tensor] = {}
        self._norms: dict[str, Tensor] = {}
        self._scales_known = False
        self._recorded: RecordedStep | None = None
        self._why_not_recorded = ""

    def setup(self, stage: str) -> None:
        """Refuse, before any process group or wrapper exists, what a gradient step cannot run under."""
        check_trainer(self.trainer)

    def configure_model(self) -> None:
        """Build the networks once the widths are known, and take scales over from the dataset."""
        if hasattr(self, "normalizer"):
            return
        data = None if self._trainer is None else getattr(self.trainer, "datamodule", None)
        for name in WIDTHS:
            self.hparams[name] = agreed_width(name, self.hparams[name], getattr(data, name, None), getattr(data, "dataset", ""))
            setattr(self, name, self.hparams[name])
        self.root_device = self.device if self._trainer is None else self.trainer.strategy.root_device
        self.hidden_dtype = hidden_dtype(self.hidden_precision, self.root_device)
        self.normalizer = ObservationNormalizer(self.observation_dim)
        self.action_scaler = ActionScaler(self.action_dim)
        scales = scales_of(data)
        if scales is not None:
            self.set_scales(*scales)
        self.build(self.observation_dim, self.action_dim)
        self.prepare_step(compiled=False)

    def set_scales(
        self,
        action_low: Tensor | Sequence[float] | float,
        action_high: Tensor | Sequence[float] | float,
        observation_mean: Tensor | Sequence[float] | float = 0.0,
        observation_std: Tensor | Sequence[float] | float = 1.0,
    ) -> None:
        """Say in which units actions and observations are, for training from a loader of one's own.

        A data module says it itself. Each is a number, or one per entry.

        Args:
            action_low: Lower bounds of the actions, which are -1 in batches.
            action_high: Upper bounds of the actions, which are 1 in batches.
            observation_mean: Subtracted from observations.
            observation_std: Divides observations then.
        """
        if not hasattr(self, "normalizer"):
            self.configure_model()
        values = (action_low, action_high, observation_mean, observation_std)
        low, high, mean, std = (torch.as_tensor(value, dtype=torch.float32).to(self.device) for value in values)
        self.action_scaler.set(low, high)
        self.normalizer.set(mean, std)
        self._scales_known = True

    def on_fit_start(self) -> None:
        """Refuse data that speak in other units, or of another discount or seed, than this module; compile what is to be."""
        self._agree_with_data(getattr(self.trainer, "datamodule", None))
        self.prepare_step(compiled=self.compiled)

    def on_train_start(self) -> None:
        """Give the optimizers, whose state is loaded by now, the options of this run; the rate is set at every step."""
        for optimizer in self.trainer.optimizers:
            restate_weight_decay(optimizer)

    def _agree_with_data(self, data: Any) -> None:
        scales = scales_of(data)
        if scales is None:
            refuse_unknown_scales(self._scales_known)
            return
        check_shared_options(self.hparams, data.hparams)
        take = data.hparams.get("scales") == "dataset"
        if agree_on_scales(self.action_scaler, self.normalizer, scales, data.dataset, take):
            self.forget_units()
        self._scales_known = True

    def configure_callbacks(self) -> list[L.Callback]:
        """Bring the necessary callbacks that the trainer lacks: ``L.Trainer().fit(algorithm, data)`` trains all networks."""
        return missing_callbacks(self.necessary_callbacks, self.trainer.callbacks)  # type: ignore[attr-defined]

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Return one optimizer per learner; Lightning counts the steps of the first."""
        self._learners = self.learners()
        self._recorded, self._why_not_recorded = None, ""  # it knows the optimizers of the training before
        return [learner.create(self.get_submodule(name)) for name, learner in self._learners.items()]

    def fused_passes(self, compiled: bool) -> FusedPerceptrons | None:
        """Return the passes made for this processor and the networks' precision, if there are any."""
        usable = compiled and self.device.type == "cpu" and self.hidden_dtype == torch.bfloat16
        return fused_perceptrons() if usable else None

    def row_noise(self, step: int) -> RowNoise:
        """Return the random numbers of a gradient step: those of this rank's rows of the global batch."""
        generator = torch.Generator(self.device).manual_seed(stream_seed(self.seed, "noise", step))
        return RowNoise(generator, self.global_rank, self.trainer.world_size)

    def mean_over_ranks(self, value: Tensor) -> Tensor:
        """Return the mean of a tensor over all ranks; the tensor itself on one device."""
        return mean_over_ranks(value)

    def training_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Take one gradient step.

        Returns:
            ``watched``: named scalars that must be finite, and ``gradient_norms``: by learner, the norm of each parameter's
            gradient, for ``NumericsGuard``; ``q`` and ``entropy`` of the :class:`StepReport`.
        """
        step = self.global_step
        # Lightning counts steps of wrapped optimizers. Only the first one is, so global_step means gradient steps.
        counted, raw = (_as_list(self.optimizers(use_pl_optimizer=wrapped)) for wrapped in (True, False))
        recorded = self._recorded_step(raw)
        self._optimizers_now = dict(zip(self._learners, raw if recorded else [counted[0], *raw[1:]], strict=True))
        for name, learner in self._learners.items():
            set_learning_rate(self._optimizers_now[name], learner.rate(step, self.trainer.max_steps))
        period = self.trainer.log_every_n_steps  # type: ignore[attr-defined]
        logged = [name for name, learner in self._learners.items() if learner.has_last_turn(step, period)]
        if recorded is not None:
            outputs = recorded.step(counted[0].step, batch, self.draw_noise(step, len(batch.action)))
        else:
            report = self._take_step(lambda: self.gradient_step(batch, step))
            entropy = None if report.entropy is None else report.entropy.detach()
            outputs = StepOutputs(self._watched, self._norms, report.metrics() if logged else {}, report.q, entropy)
        if logged:
            self._log_step(self._numbers_of(logged, outputs.watched | outputs.metrics), step)
        return {"entropy": outputs.entropy, "watched": outputs.watched, "gradient_norms": outputs.norms, "q": outputs.q}

    def _take_step(self, take: Callable[[], StepReport | None]) -> StepReport:
        self._watched, self._norms = {}, {}
        report = take() or StepReport()
        assert next(iter(self._learners)) in self._norms, "every step must update the first learner: that is what is counted"
        self._fill_in_rests()
        return report

    def _recorded_step(self, optimizers: list[Any]) -> RecordedStep | None:
        """Return what takes this run's gradient steps between fixed addresses, if that is how they are taken."""
        if self._recorded is None and not self._why_not_recorded:
            why_not = self.why_not_recorded(optimizers)
            if not why_not:
                self._recorded = RecordedStep(self._step_on, optimizers, self.device)
            elif self.compiled and self.device.type == "cuda":
                rank_zero_info(f"the gradient step is compiled but no CUDA graph: {why_not}")
            self._why_not_recorded = why_not
        return self._recorded

    def why_not_recorded(self, optimizers: list[Any]) -> str:
        """Return why gradient steps are not recorded as a CUDA graph, or an empty string if they are."""
        recordable = type(self).gradient_step is OfflineAlgorithm.gradient_step
        return why_not_recorded(self.compiled, recordable, self.trainer.world_size, optimizers, self.device)

    def _step_on(self, batch: Batch, noise: Any) -> StepOutputs:
        report = self._take_step(lambda: self.step_on(batch, noise))
        return StepOutputs(self._watched, self._norms, report.metrics(), report.q, report.entropy)

    def update(self, name: str, loss: Tensor, gradients: list[Tensor] | None = None) -> None:
        """Take one optimizer step of a learner; ``NAME/loss`` and ``NAME/gradient_norm`` are watched and logged.

        Args:
            name: The learner, a submodule.
            loss: Its loss on this rank's batch, scalar.
            gradients: Gradients of the loss in the order of the submodule's parameters; by autograd, for these parameters
                alone, when not given.
        """
        network = self.get_submodule(name)
        gradients = loss_gradients(loss, network) if gradients is None else gradients
        norms = apply_gradients(self._optimizers_now[name], network, gradients, self.gradient_clip_val)
        self._watched |= {f"{name}/loss": loss.detach(), f"{name}/gradient_norm": norms.joint}
        self._norms[name] = norms.tensors

    def _fill_in_rests(self) -> None:
        """Report zeros for learners that this step did not update: watchers expect all of them, always in the same order."""
        for name in self._learners.keys() - self._norms.keys():
            count = sum(1 for _ in self.get_submodule(name).parameters())
            self._watched |= dict.fromkeys((f"{name}/loss", f"{name}/gradient_norm"), torch.zeros((), device=self.device))
            self._norms[name] = torch.zeros(count, device=self.device)
        self._watched = {f"{name}/{what}": self._watched[f"{name}/{what}"] for name in self._learners for what in _WATCHED}
        self._norms = {name: self._norms[name] for name in self._learners}

    def _numbers_of(self, learners: Sequence[str], numbers: dict[str, Tensor]) -> dict[str, Tensor]:
        """Return what is said about some learners; what is about none of them counts as the first one's, which never rests."""
        first = next(iter(self._learners))
        about = {name: prefix if (prefix := name.partition("/")[0]) in self._learners else first for name in numbers}
        return {name: value for name, value in numbers.items() if about[name] in learners}

    def _log_step(self, values: dict[str, Tensor], step: int) -> None:
        reduced = self.mean_over_ranks(torch.stack(list(values.values())))
        self.log_dict(dict(zip(values, reduced, strict=True)), logger=False)  # for callbacks and the progress bar
        numbers = dict(zip(values, reduced.tolist(), strict=True))  # one copy from the device, for which the host waits
        # Lightning would hand them to the logger only after on_train_batch_end, where checkpoints are saved: a run killed
        # in between would lack this step's numbers for ever.
        for logger in self.loggers:
            logger.log_metrics(numbers, step=step)

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Do nothing: policies are judged in the environment, by ``EnvironmentEvaluation``."""

    def test_step(self, batch: Any, batch_idx: int) -> None:
        """Do nothing: policies are judged in the environment, by ``EnvironmentEvaluation``."""

    def predict_step(self, batch: Tensor, batch_idx: int) -> Tensor:
        """Return one action per observation (batch, observation_dim), in the environment's units: (batch, action_dim)."""
        generator = torch.Generator().manual_seed(stream_seed(self.seed, "predict", batch_idx))
        return self.act(batch, [generator] * len(batch))

    @torch.no_grad()
    def act(
        self,
        observation: Tensor,
        generators: Sequence[torch.Generator],
        episodes: Sequence[int] | None = None,
        rewards: Sequence[float] | None = None,
    ) -> Tensor:
        """Choose one action per observation.

        Args:
            observation: Observations as the environment gives them, shape (batch, observation_dim).
            generators: One CPU generator per row: an episode's draws do not depend on which episodes run beside it.
            episodes: Which episode, begun with :meth:`reset`, each row goes on in; each row is the first step of one that is
                not remembered when not given. For policies that remember, as ``rewards``; others look at neither.
            rewards: What each of these episodes has paid since its last action, in the environment's units.

        Returns:
            Actions in the environment's units, shape (batch, action_dim).
        """
        action: Tensor = self.action_scaler(self.choose(self.normalizer(observation.to(self.device)), generators))
        return action

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Write down which algorithm this is; the format too, for trainers without ``AtomicCheckpointIO``."""
        checkpoint[FORMAT_KEY] = FORMAT_VERSION
        checkpoint["algorithm"] = f"{type(self).__module__}.{type(self).__qualname__}"

    def on_load_checkpoint(self, checkpoint: Mapping[str, Any]) -> None:
        """Refuse a checkpoint of another algorithm, or one trained with other ``fixed_options``, with both values."""
        theirs = str(checkpoint.get("algorithm", "")).rpartition(".")[2]
        if theirs not in ("", type(self).__name__):
            raise UserError(f"the checkpoint is one of {theirs}, not of {type(self).__name__}: use its config, or another file")
        check_checkpoint(checkpoint.get("hyper_parameters", {}), self.hparams, self.fixed_options)
        self._scales_known = True
        self._tell_changes(checkpoint)

    def _tell_changes(self, checkpoint: Mapping[str, Any]) -> None:
        """Say which options differ from the checkpoint's: by intent, or because a command line was shortened."""
        if self._trainer is None:
            return
        fitting = self.trainer.state.fn == TrainerFn.FITTING
        data = getattr(self.trainer, "datamodule", None)
        changed = changed_options("model", checkpoint.get("hyper_parameters", {}), self.hparams)
        if data is not None:
            changed += changed_options("data", checkpoint.get("datamodule_hyper_parameters", {}), data.hparams)
        if changed:
            what = "going on" if fitting else "acting"
            rank_zero_info(f"{what} with other options than those of the checkpoint (in brackets): {', '.join(changed)}")


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
