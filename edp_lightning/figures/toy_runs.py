"""Trains the variants of the two-step task over several seeds, each as an ordinary ``fit``."""

import contextlib
import json
import logging
import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, get_args

import torch
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from edp_lightning.data.datamodule import OfflineDataModule
from edp_lightning.errors import UserError, first_line
from edp_lightning.policies.diffusion import EntropyEstimator
from edp_lightning.runs.checkpoint_io import owes_evaluation, read_checkpoint
from edp_lightning.runs.processes import end_with_parent
from edp_lightning.runs.run_folder import check_writable, checkpoint_file, run_folder

RunCommand = Callable[[list[str]], None]
"""Runs one command line of the package, without the program's name."""

ONE_CRITIC = ("--model.num_critics=1", "--model.q_aggregation=min")


@dataclass(frozen=True)
class Variant:
    """One curve of the figure.

    Attributes:
        name: Names its runs.
        label: Names it in the figure.
        options: What differs from the config.
    """

    name: str
    label: str
    options: tuple[str, ...]


def variants(entropy: str) -> tuple[Variant, ...]:
    """Return the three variants of the figure; the last one is the config as it is but for the estimator.

    Raises:
        UserError: If there is no such estimator.
    """
    if entropy not in get_args(EntropyEstimator):
        raise UserError(f"no entropy estimator {entropy!r}: choose one of {', '.join(get_args(EntropyEstimator))}")
    return (
        Variant("diffusion", "diffusion policy", ("--model.entropy=none", *ONE_CRITIC)),
        Variant("entropy", "+ entropy", (f"--model.entropy={entropy}", *ONE_CRITIC)),
        Variant("ensemble", "+ entropy + Q-ensemble", (f"--model.entropy={entropy}",)),
    )


class ToyConfig:
    """The config file that all runs share.

    Args:
        path: The file.
        epochs: Epochs of a run.

    Raises:
        UserError: If the file cannot be read, its evaluations do not end with the last epoch, or it transforms rewards.
    """

    def __init__(self, path: str, epochs: int) -> None:
        self.path = Path(path)
        try:
            self.text = self.path.read_text()
        except OSError as error:
            raise UserError(
                f"{path} cannot be read ({error.strerror}): run this in a checkout of edp_lightning, or give --fit_config"
            ) from error
        try:
            values: Any = OmegaConf.create(self.text)
            self.data: dict[str, Any] = dict(values["data"])
            every = values["trainer"].get("check_val_every_n_epoch", 1)
            self.dataset: str = self.data["dataset"]
        except (KeyError, TypeError, ValueError, AttributeError, OmegaConfBaseException, yaml.YAMLError) as error:
            raise UserError(
                f"{path} is no configuration of a training with its sections data and trainer ({first_line(error)}): give one "
                "like configs/toy.yaml"
            ) from error
        if epochs < 1 or epochs % every != 0:
            raise UserError(
                f"epochs must be a positive multiple of {path}'s trainer.check_val_every_n_epoch, {every}; got {epochs}"
            )
        transform = self.data.get("reward_transform", "none")
        if transform != "none":
            raise UserError(
                f"{path} has data.reward_transform {transform}, but the figure shows values beside the task's own rewards: "
                "leave it at none"
            )
        self.epochs = epochs
        self.steps_per_epoch: int = self.data.get("steps_per_epoch", 1000)
        self.max_steps = epochs * self.steps_per_epoch

    def prepare_data(self) -> str:
        """Collect the set if it is not on this machine, before several runs look for it at once; return its name."""
        OfflineDataModule(self.dataset, collect_steps=self.data.get("collect_steps"), collect_workers=1).prepare_data()
        return self.dataset


@dataclass(frozen=True)
class Run:
    """One training run.

    Attributes:
        variant: What is trained.
        seed: Its seed.
        folder: Where it lives.
        arguments: Command line of ``fit``, without what a resumed run needs more.
        max_steps: Its last gradient step.
    """

    variant: Variant
    seed: int
    folder: Path
    arguments: tuple[str, ...]
    max_steps: int

    def train(self, run_command: RunCommand) -> None:
        """Train in this process, or go on where an earlier call was stopped; output goes to ``train.log``.

        Args:
            run_command: Runs the command line.

        Raises:
            UserError: If the training raises one.
        """
        last = checkpoint_file(self.folder)
        resume = []
        if last.exists():
            if self._is_over(read_checkpoint(last)):
                return
            resume = ["--ckpt_path=last"]
        self.folder.mkdir(parents=True, exist_ok=True)
        with (
            (self.folder / "train.log").open("a") as log,
            contextlib.redirect_stdout(log),
            contextlib.redirect_stderr(log),
            _hushed("lightning.pytorch", "lightning.fabric"),
        ):
            run_command(["fit", *self.arguments, *resume])

    def _is_over(self, checkpoint: dict[str, Any]) -> bool:
        """Return whether nothing is left to do: a run that was stopped in its last evaluation has that before it."""
        return int(checkpoint["global_step"]) >= self.max_steps and not owes_evaluation(checkpoint)


@contextlib.contextmanager
def _hushed(*names: str) -> Iterator[None]:
    """Keep loggers to warnings: they write to the terminal that was there when Lightning was imported."""
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.WARNING)
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def plan(config: ToyConfig, entropy: str, seeds: int, output: Path, compiled: bool) -> list[Run]:
    """Return the runs, those of one seed together, and keep their settings in ``settings.json``.

    Raises:
        UserError: If the folder holds runs with other settings.
    """
    chosen = variants(entropy)
    settings = {"config": config.text, "epochs": config.epochs, "entropy": entropy, "compile": compiled}
    kept = output / "settings.json"
    if kept.exists() and json.loads(kept.read_text()) != settings:
        raise UserError(f"{output} holds runs with other settings (see settings.json in it): choose another --output")
    check_writable(output)
    kept.write_text(json.dumps(settings, indent=2))
    runs = []
    for seed in range(seeds):
        for variant in chosen:
            arguments = (
                f"--config={config.path}",
                f"--output={output}",
                f"--run_name={variant.name}",
                f"--seed_everything={seed}",
                f"--trainer.max_steps={config.max_steps}",
                "--trainer.accelerator=cpu",
                "--trainer.enable_model_summary=false",
                "--progress_bar.refresh_rate=0",
                f"--model.compile={str(compiled).lower()}",
                "--q_diagnostics.enabled=false",  # nobody looks at the plots of 750 evaluations
                *variant.options,
            )
            folder = run_folder(str(output), config.dataset, variant.name, seed)
            runs.append(Run(variant, seed, folder, arguments, config.max_steps))
    return runs


def train_all(runs: Sequence[Run], workers: int, run_command: RunCommand) -> Iterator[Run]:
    """Train all runs, as many at a time as there are workers, and yield each one that is done.

    Args:
        runs: The runs.
        workers: Number of processes with one thread each; 1 trains in this one.
        run_command: Runs a command line; a function of a module, which other processes can import.

    Raises:
        UserError: If a run raises one, or the user stops them.
    """
    try:
        if workers == 1:
            for run in runs:
                run.train(run_command)
                yield run
            return
        yield from _train_in_processes(runs, workers, run_command)
    except KeyboardInterrupt:
        raise UserError("stopped: the same command goes on where the runs are") from None


def _train_in_processes(runs: Sequence[Run], workers: int, run_command: RunCommand) -> Iterator[Run]:
    """Train all runs and yield those that are done; after an error, or Ctrl-C, none is begun any more.

    A run is handed out when there is a process for it: what waits in the pool's queue cannot all be taken back.
    """
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _start)
    waiting = iter(runs)
    training: dict[Future[None], Run] = {}
    try:
        while True:
            training |= {pool.submit(run.train, run_command): run for run in islice(waiting, workers - len(training))}
            if not training:
                return
            done, _ = wait(training, return_when=FIRST_COMPLETED)
            for future in done:
                future.result()
                yield training.pop(future)
    finally:
        pool.shutdown(cancel_futures=True)


def _start() -> None:
    end_with_parent()
    torch.set_num_threads(1)
