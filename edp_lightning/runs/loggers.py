"""Loggers of the user's choice: in the run's folder, and going on where a resumed run goes on.

A logger's folder and what lies in it are foreign: rows and identities are checked when they are read.
"""

import copy
import csv
import json
import os
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, Logger, MLFlowLogger, WandbLogger

from edp_lightning.errors import UserError

IDENTITIES = "loggers.json"
"""File in the run's folder with what services call this run."""

IDENTITY_ARGUMENTS = {"WandbLogger": ("id", "version"), "MLFlowLogger": ("run_id",)}
"""Loggers that write to a service -> arguments by which a run is found again there; the first one is set."""

IDENTITY_OF: dict[type[Logger], Callable[[Any], str | None]] = {
    WandbLogger: lambda logger: logger.version,
    MLFlowLogger: lambda logger: logger.run_id,
}
"""The same loggers -> what their service calls the run."""

SERVICES = ("wandb", "mlflow", "comet_ml", "neptune", "litlogger", "lightning_sdk")
"""Packages of services that loggers write to."""

UNNAMED = "lightning_logs"
"""What Lightning's file loggers call an experiment whose name nobody chose."""


def loggers_of_run(setting: Any, folder: Path, resume: bool, first_step: int) -> Any:
    """Return ``trainer.logger`` of a config as this run needs it.

    A folder is read relative to the run's, and a run of a service goes on in the same run there. CSV and TensorBoard files
    lie in the run's folder itself unless name or version were chosen; outside of it, in a folder of the run's own.

    Args:
        setting: A boolean, None, or loggers: one or several mappings with ``class_path`` and ``init_args``. Left as it is.
        folder: The run's folder.
        resume: Whether the run goes on with what is in its folder.
        first_step: Gradient steps already taken; what was logged after them is logged again.
    """
    if isinstance(setting, (list, tuple)):
        identities = _read_identities(folder) if resume else []
        return [_logger_of_run(one, folder, identities, first_step) for one in setting]
    if setting is None or isinstance(setting, bool):
        return setting
    return loggers_of_run([setting], folder, resume, first_step)[0]


def _logger_of_run(setting: Any, folder: Path, identities: list[dict[str, str]], first_step: int) -> Any:
    setting = copy.deepcopy(setting)
    arguments = setting.get("init_args")
    if not arguments:
        return setting
    name = str(setting["class_path"]).rpartition(".")[2]
    for argument in ("save_dir", "dir"):
        if isinstance(arguments.get(argument), str):
            arguments[argument] = os.path.normpath(folder / arguments[argument])  # which leaves an absolute path as it is
    if name in ("CSVLogger", "TensorBoardLogger"):
        inside = Path(arguments["save_dir"]).is_relative_to(os.path.normpath(folder))
        if arguments.get("version") is None:  # Lightning would begin another version at every start
            arguments["version"] = "" if inside else folder.name
            if arguments.get("name") == UNNAMED:
                arguments["name"] = "" if inside else folder.parent.name
    if name == "TensorBoardLogger" and arguments.get("purge_step") is None:
        arguments["purge_step"] = first_step
    known = IDENTITY_ARGUMENTS.get(name, ())
    if known and not any(arguments.get(argument) for argument in known):
        identity = next((entry for entry in identities if entry["logger"] == name), None)
        if identity is not None:
            identities.remove(identity)
            arguments[known[0]] = identity["id"]
    return setting


def told_by_service(error: BaseException) -> UserError | None:
    """Return what a logger's package has to say to the user (not logged in, no server), None for any other error.

    Args:
        error: What was raised; the package's own may be behind it.
    """
    cause: BaseException | None = error
    while cause is not None:
        package = type(cause).__module__.partition(".")[0]
        if package in SERVICES:
            return UserError(
                f"the logger's package {package} refuses: {cause}. Mend that, or take another trainer.logger; "
                "checkpoints saved before it are intact"
            )
        cause = cause.__cause__ or cause.__context__
    return None


def remember_identities(loggers: Iterable[Logger], folder: Path) -> None:
    """Write down what services call this run, for the run that goes on with it."""
    found = [
        {"logger": kind.__name__, "id": identity}
        for logger in loggers
        for kind, identity_of in IDENTITY_OF.items()
        if isinstance(logger, kind) and (identity := identity_of(logger))
    ]
    if found:
        path = folder / IDENTITIES
        temporary = path.with_name(f".{path.name}.writing")  # other ranks may be reading
        temporary.write_text(json.dumps(found, indent=2))
        temporary.replace(path)


def _read_identities(folder: Path) -> list[dict[str, str]]:
    path = folder / IDENTITIES
    if not path.exists():
        return []
    try:
        found = json.loads(path.read_text())
        return [{"logger": str(entry["logger"]), "id": str(entry["id"])} for entry in found]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(
            f"{path} should name the runs of loggers that this run goes on with, but cannot be read ({error!r}): mend it, or "
            "delete it to begin new ones there"
        ) from error


def continue_csv(logger: CSVLogger, first_step: int) -> None:
    """Keep the rows of a run that goes on, up to its checkpoint; Lightning would delete the file.

    A copy stays beside it until the rows are written again.

    Args:
        logger: The logger, before it is used.
        first_step: Gradient steps already taken; rows of later ones are logged again.

    Raises:
        UserError: If the file is no table of this logger.
    """
    path = Path(logger.log_dir) / "metrics.csv"
    copy_of_it = path.with_name(".metrics.csv.before")
    if path.exists() and not copy_of_it.exists():
        path.replace(copy_of_it)
    rows = _read_rows(copy_of_it, path) if copy_of_it.exists() else []
    with warnings.catch_warnings():  # of a run's other files, which stay, and of the rows, which are written again
        warnings.filterwarnings("ignore", message=".*exists and is not empty.*")
        writer = logger.experiment
    for step, row in rows:
        if step < first_step:
            writer.log_metrics(row, step)
    writer.save()
    copy_of_it.unlink(missing_ok=True)


def _read_rows(file: Path, name: Path) -> list[tuple[int, dict[str, Any]]]:
    """Return steps and values of a CSV history, as the strings they are; a last line that was cut off is left out."""
    try:
        with file.open(newline="") as lines:
            reader = csv.DictReader(lines)
            found = [row for row in reader if None not in row.values() and None not in row]
        return [(int(row.pop("step")), {key: value for key, value in row.items() if value != ""}) for row in found]
    except (OSError, ValueError, KeyError, csv.Error) as error:
        file.replace(name)
        raise UserError(
            f"{name} is not a table that CSVLogger wrote ({error!r}): move it away, or choose another folder with "
            "trainer.logger.init_args.save_dir"
        ) from error
