"""The command line: Lightning's fit, validate, test and predict with this package's callbacks, and the extra commands."""

import errno
import signal
import sys
import threading
import warnings
from contextlib import ExitStack
from typing import Any, NoReturn

import jsonargparse
from lightning.pytorch.utilities import rank_zero_info

from edp_lightning import __version__
from edp_lightning.algorithms.offline_algorithm import OfflineAlgorithm
from edp_lightning.algorithms.registry import DEFAULT, algorithm_class, algorithm_name, algorithm_of
from edp_lightning.command_line.algorithm_choice import Choice, choose_algorithm
from edp_lightning.command_line.commands import COMMANDS, PROGRAM
from edp_lightning.command_line.front import answer
from edp_lightning.command_line.offline_cli import TRAINER_DEFAULTS, OfflineCLI
from edp_lightning.command_line.saved_config import SaveFitConfig
from edp_lightning.command_line.trainer_parser import TrainerParser
from edp_lightning.data.datamodule import OfflineDataModule
from edp_lightning.errors import UserError
from edp_lightning.runs.checkpoint_io import read_checkpoint
from edp_lightning.runs.run_folder import NAMED_CHECKPOINTS

FULL_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""What the operating system says when nothing more fits on a disk, into a quota or into a file."""


def _algorithm(choice: Choice, checkpoint: dict[str, Any] | None) -> type[OfflineAlgorithm]:
    """Return the algorithm that a command line means; without a name the checkpoint file's, or the default."""
    if choice.left_out:
        files = ", ".join(choice.left_out)
        rank_zero_info(f"{files}: options under model are for another algorithm than {choice.name or DEFAULT} and are left out")
    if choice.name is None:
        return algorithm_class(DEFAULT) if checkpoint is None else algorithm_of(checkpoint)
    chosen = algorithm_class(choice.name)
    if checkpoint is not None and algorithm_of(checkpoint) is not chosen:
        theirs = algorithm_name(algorithm_of(checkpoint))
        raise UserError(f"the checkpoint is one of {theirs}, not of {choice.name}: leave --model out, or give another file")
    return chosen


def _option(arguments: list[str], name: str) -> str | None:
    """Return the value of a command-line option, given as two words or with an equals sign; None without it."""
    for index, word in enumerate(arguments):
        if word == name and index + 1 < len(arguments):
            return arguments[index + 1]
        if word.startswith(f"{name}="):
            return word.partition("=")[2]
    return None


def _quiet_known_noise() -> None:
    """Silence messages of Lightning that do not apply here."""
    # The callbacks' updates happen in on_train_batch_end, before ModelCheckpoint saves: the state is post-optimization.
    warnings.filterwarnings("ignore", message=".*pre-optimization.*")
    # What names the algorithm is taken out of the arguments before Lightning sees them.
    warnings.filterwarnings("ignore", message=".*args parameter is intended to run from within Python.*")
    # Batches are drawn from a table in memory: loader workers would only slow that down.
    warnings.filterwarnings("ignore", message=".*does not have many workers.*")
    # One run, one folder: continuing in a folder with checkpoints is what resume means.
    warnings.filterwarnings("ignore", message=".*Checkpoint directory .* exists and is not empty.*")
    # Lightning 2.6 calls a method that jsonargparse has renamed; it works.
    warnings.filterwarnings("ignore", module="jsonargparse._util")
    # torch's pytree calls its own deprecated check through Lightning.
    warnings.filterwarnings("ignore", message=".*LeafSpec.*")


def run(args: list[str] | None = None) -> None:
    """Run one command line (``sys.argv`` when not given); errors propagate."""
    _quiet_known_noise()
    arguments = sys.argv[1:] if args is None else args
    if answer(arguments):
        return
    command = COMMANDS.get(arguments[0])
    if command is not None and command.run is not None:
        command.run(arguments[1:], run)
        return
    jsonargparse.set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    choice = choose_algorithm(arguments, DEFAULT)
    path = _option(arguments, "--ckpt_path")
    checkpoint = None if path is None or path in NAMED_CHECKPOINTS else read_checkpoint(path)
    with ExitStack() as locks:
        OfflineCLI(
            _algorithm(choice, checkpoint),
            OfflineDataModule,
            save_config_callback=SaveFitConfig,
            save_config_kwargs={"overwrite": True, "save_to_log_dir": False},
            trainer_defaults=TRAINER_DEFAULTS,
            seed_everything_default=0,
            auto_configure_optimizers=False,
            parser_class=TrainerParser,
            parser_kwargs={"prog": PROGRAM, "parser_mode": "omegaconf+", "version": __version__},
            args=choice.arguments if args is not None or choice.arguments != arguments else None,
            command=arguments[0],
            locks=locks,
            checkpoint=checkpoint,
        )


def _fail(message: str, status: int = 1) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(status) from None


def main(args: list[str] | None = None) -> None:
    """Run ``python -m edp_lightning``.

    Args:
        args: Command line without the program's name; ``sys.argv`` when not given.

    Raises:
        SystemExit: With status 1 and one message on stderr if the user can mend the problem; 2 for a wrong option; 130 after
            Ctrl-C and 143 after SIGTERM.
    """
    argv, report = sys.argv, threading.excepthook

    def report_but_full_disk(failure: threading.ExceptHookArgs) -> None:
        """Leave a full disk to the main thread: TensorBoard's writer hands its error over, and would print it as well."""
        if not (isinstance(failure.exc_value, OSError) and failure.exc_value.errno in FULL_DISK):
            report(failure)

    threading.excepthook = report_but_full_disk
    if args is not None:  # LightningCLI warns when the surrounding program, such as pytest, has a command line too
        sys.argv = argv[:1]
    try:
        run(args)
    except UserError as error:
        _fail(str(error), error.exit_status)
    except OSError as error:
        if error.errno not in FULL_DISK:
            raise
        _fail(f"{error}: free space and go on with --ckpt_path last; the checkpoint saved before is intact")
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None
    except SystemExit as stop:
        if isinstance(stop.__context__, KeyboardInterrupt):  # Lightning makes it a plain 1
            raise SystemExit(128 + signal.SIGINT) from None
        raise
    finally:
        sys.argv = argv
        if args is not None:  # a process of its own keeps it: the writer may fail as late as at the exit
            threading.excepthook = report
