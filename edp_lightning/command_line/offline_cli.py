"""LightningCLI as this package needs it: forced callbacks, linked values, one folder per run."""

import inspect
from contextlib import ExitStack
from typing import Any, Literal

import lightning as L
import torch
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Timer
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import CSVLogger, TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only

from edp_lightning.algorithms.offline_algorithm import OfflineAlgorithm
from edp_lightning.algorithms.registry import DEFAULT, algorithm_name
from edp_lightning.callbacks.forced import FORCED_CALLBACKS, forced_beside
from edp_lightning.callbacks.job_timer import JobTimer
from edp_lightning.command_line.config_checks import (
    check_evaluation_period,
    check_root_folder,
    check_section,
    constructor_refused,
)
from edp_lightning.data.datamodule import OfflineDataModule
from edp_lightning.errors import UserError
from edp_lightning.runs.checkpoint_io import AtomicCheckpointIO, read_checkpoint
from edp_lightning.runs.compatibility import check_strategy, check_trainer
from edp_lightning.runs.launchers import current_launch
from edp_lightning.runs.loggers import continue_csv, loggers_of_run, told_by_service
from edp_lightning.runs.run_folder import (
    NAMED_CHECKPOINTS,
    claimed_run_folder,
    folder_of_checkpoint,
    lies_in,
    lock_run_folder,
    named_checkpoint,
    resume_point,
    run_folder,
)

LARGEST_SEED = 2**32 - 1
"""That numpy takes."""

TRAINER_DEFAULTS: dict[str, Any] = {
    "devices": 1,
    "max_epochs": -1,
    "num_sanity_val_steps": 0,
    "use_distributed_sampler": False,
}


class OfflineCLI(LightningCLI):
    """LightningCLI with forced callbacks, linked values, one folder per run; the command line beats the checkpoint."""

    def __init__(
        self,
        algorithm: type[OfflineAlgorithm],
        *args: Any,
        command: str,
        locks: ExitStack,
        checkpoint: dict[str, Any] | None,
        **kwargs: Any,
    ) -> None:
        self._algorithm = algorithm
        self._command = command
        self._locks = locks
        self._checkpoint = checkpoint
        super().__init__(algorithm, *args, **kwargs)

    def __getstate__(self) -> dict[str, Any]:
        """Leave the lock out of what ``ddp_spawn`` sends to its ranks: it belongs to this process."""
        return self.__dict__ | {"_locks": None}

    def subcommands(self) -> dict[str, set[str]]:  # type: ignore[override]
        """Return the command that is run, with the arguments to skip: parsers for all take half of a short run's time."""
        commands = LightningCLI.subcommands()
        return {self._command: commands[self._command]} if self._command in commands else commands

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the forced callbacks, the run's folder and the links between sections."""
        for section, callback in FORCED_CALLBACKS.items():
            parser.add_lightning_class_args(callback, section)
        parser.add_argument("--output", type=str, default="runs", help="Folder of all runs.")
        parser.add_argument(
            "--run_name", type=str, default="default", help="Names the run's folder: OUTPUT/DATASET/RUN_NAME-seedSEED."
        )
        parser.add_argument(
            "--float32_matmul_precision",
            type=Literal["highest", "high", "medium"],
            default="highest",
            help="What torch may make of float32 products (torch.set_float32_matmul_precision); high: TF32 on a GPU.",
        )
        if _takes(self._algorithm, "discount"):
            parser.link_arguments("model.discount", "data.discount")
        if algorithm_name(self._algorithm) != DEFAULT:  # config.yaml must say whose options it holds
            parser.add_argument("--model.class_path", type=str, default=algorithm_name(self._algorithm), help="The algorithm.")
        parser.link_arguments("seed_everything", "model.seed", compute_fn=int)
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse; a checkpoint file's hyperparameters become defaults, so configs and flags win over them."""
        if self._checkpoint is not None:
            self._use_as_defaults(self._checkpoint)
        super().parse_arguments(parser, args)
        seed = self.config[self.config["subcommand"]].seed_everything
        if isinstance(seed, bool) or not 0 <= seed <= LARGEST_SEED:
            raise UserError(
                f"seed_everything names a run and must be a number from 0 to {LARGEST_SEED}, not {seed}: choose one"
            )

    def _use_as_defaults(self, checkpoint: dict[str, Any]) -> None:
        linked = {"model.seed", "data.seed"} | ({"data.discount"} if _takes(self._algorithm, "discount") else set())
        defaults = {
            f"{section}.{name}": value
            for section, key in (("model", "hyper_parameters"), ("data", "datamodule_hyper_parameters"))
            for name, value in checkpoint.get(key, {}).items()
            if not name.startswith("_") and f"{section}.{name}" not in linked
        }
        for subparser in self._subcommand_parsers.values():
            subparser.set_defaults(defaults)

    def _parse_ckpt_path(self) -> None:
        """Leave the config alone: Lightning would let the checkpoint's values beat the command line (Lightning #21255)."""

    def before_instantiate_classes(self) -> None:
        """Refuse what the types of the options let through; set what holds for the whole process."""
        config = self.config[self.subcommand]
        torch.set_float32_matmul_precision(config.float32_matmul_precision)
        classes = {"trainer": L.Trainer, "model": self._algorithm, "data": OfflineDataModule, **FORCED_CALLBACKS}
        for section, constructor in classes.items():
            if section in config:  # a callback without options has no section
                check_section(section, config[section], constructor)
        check_evaluation_period(config.trainer, config.data.steps_per_epoch)
        check_root_folder(config.trainer.default_root_dir)
        self._choose_folder(config)

    def _choose_folder(self, config: Any) -> None:
        """Claim the run's folder, find the checkpoint and bring the loggers there; all before a logger is made."""
        folder = run_folder(config.output, config.data.dataset, config.run_name, config.seed_everything)
        wanted, step = config.get("ckpt_path"), 0
        self._stated_logger = config.trainer.logger
        if self.subcommand == "fit":
            goes_on = wanted in NAMED_CHECKPOINTS or (wanted is not None and lies_in(wanted, folder))
            if not config.trainer.fast_dev_run:
                self._locks.enter_context(claimed_run_folder(folder, goes_on, self._has_trained))
            checkpoint, step = resume_point(folder, wanted)
            config.trainer.logger = loggers_of_run(config.trainer.logger, folder, goes_on, step)
        else:
            config.trainer.logger = False
            checkpoint = named_checkpoint(folder, wanted)
            if wanted in NAMED_CHECKPOINTS:
                read_checkpoint(str(checkpoint))
            elif wanted is not None:
                folder = folder_of_checkpoint(wanted)
            if self.subcommand != "validate":
                self._locks.enter_context(claimed_run_folder(folder, True, self._has_trained))
        self._folder, self._resume_from, self._first_step = folder, checkpoint, step

    def _has_trained(self) -> bool:
        trainer = getattr(self, "trainer", None)
        return trainer is not None and trainer.global_step > 0

    def instantiate_classes(self) -> None:
        """Create the objects; the algorithm's name is no argument of its class.

        A class that refuses its arguments, or misses a package, is the user's to mend.
        """
        model = self.config[self.subcommand].model
        name = model.pop("class_path", None)
        try:
            super().instantiate_classes()
        except UserError:
            raise
        except Exception as error:
            if told := told_by_service(error):
                raise told from error
            if isinstance(error, (ModuleNotFoundError, MisconfigurationException, ValueError)):
                raise constructor_refused(error) from error
            raise
        if name is not None:
            model.class_path = name

    def _run_subcommand(self, subcommand: str) -> None:
        """Run it; what Lightning or a callback of its calls a misconfiguration is the user's to mend."""
        try:
            super()._run_subcommand(subcommand)
        except MisconfigurationException as error:
            raise UserError(f"these trainer settings do not work here: {error}") from error
        except UserError:
            raise
        except Exception as error:
            if told := told_by_service(error):
                raise told from error
            raise

    def instantiate_trainer(self, **kwargs: Any) -> L.Trainer:
        """Create the trainer with its run folder, TensorBoard logger and atomic checkpoints."""
        config = self.config[self.subcommand]
        check_strategy(config.trainer.strategy)
        config.trainer.logger = self._stated_logger  # config.yaml states a run, not where this machine keeps it
        folder = self._folder
        if self.subcommand == "fit" and config.trainer.logger in (None, True):
            kwargs["logger"] = TensorBoardLogger(
                folder.parent.parent,
                name=folder.parent.name,
                version=folder.name,
                default_hp_metric=False,
                purge_step=self._first_step,  # TensorBoard drops what a killed run logged after its last checkpoint
            )
        config["ckpt_path"] = None  # nor where it went on
        self.config_init[self.subcommand]["ckpt_path"] = self._resume_from
        kwargs["default_root_dir"] = str(folder)
        plugins = self._get(self.config_init, "trainer", default={}).get("plugins") or []
        kwargs["plugins"] = [*(plugins if isinstance(plugins, list) else [plugins]), AtomicCheckpointIO()]
        launch = current_launch()
        slurm = launch is not None and launch.launcher == "SLURM"
        if slurm and not any(isinstance(plugin, ClusterEnvironment) for plugin in kwargs["plugins"]):
            # Lightning's own requeueing saves inside a signal handler, in the middle of a gradient step
            kwargs["plugins"].append(SLURMEnvironment(auto_requeue=False))
        try:
            trainer = super().instantiate_trainer(**kwargs)
        except (MisconfigurationException, ModuleNotFoundError, TypeError, ValueError) as error:
            raise UserError(f"these trainer settings do not work here: {error}") from error
        check_trainer(trainer)
        # variables of a launcher that is not used here may say otherwise
        rank_zero_only.rank = trainer.global_rank  # type: ignore[attr-defined]
        if self.subcommand == "fit" and trainer.is_global_zero and not config.trainer.fast_dev_run:
            self._locks.enter_context(lock_run_folder(folder))
            for logger in trainer.loggers:
                if isinstance(logger, CSVLogger):
                    continue_csv(logger, self._first_step)
        return trainer

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[L.Callback]) -> L.Trainer:
        """Add the forced callbacks that the user's do not replace, and let ``max_time`` mean this job."""
        users = config["callbacks"] or []
        users = users if isinstance(users, list) else [users]
        if config.get("max_time") is not None and not any(isinstance(callback, Timer) for callback in users):
            users = [*users, JobTimer(config["max_time"])]
            config = config | {"max_time": None}
        forced = dict(zip(FORCED_CALLBACKS, callbacks, strict=True))
        kept = forced_beside(forced, users, config.get("enable_progress_bar") is not False)
        return super()._instantiate_trainer(config | {"callbacks": users}, kept)


def _takes(algorithm: type[OfflineAlgorithm], option: str) -> bool:
    return any(option in inspect.signature(c.__init__).parameters for c in algorithm.__mro__ if issubclass(c, OfflineAlgorithm))
