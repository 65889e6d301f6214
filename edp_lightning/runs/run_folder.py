"""One folder per run: config.yaml, checkpoints, logs and results live together."""

import os
import re
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from edp_lightning.errors import UserError
from edp_lightning.runs.checkpoint_io import read_checkpoint

NAMED_CHECKPOINTS = ("last", "best")
"""Values of --ckpt_path that mean a file in the run's folder."""

CHECKPOINTS = "checkpoints"
"""Folder of the checkpoints, in that of their run."""

PENDING = "evaluating"
"""Name of the checkpoint from which an evaluation in the background plays; there until its result is known."""

LOCK = ".lock"


class FolderInUseError(UserError):
    """Another process trains into a folder."""


def run_folder(output: str, dataset: str, run_name: str, seed: int | bool) -> Path:
    """Return OUTPUT/DATASET/RUN_NAME-seedSEED; characters of the dataset that are unfit for a file name become dashes."""
    readable = re.sub(r"[^\w.-]+", "-", dataset).strip("-.")
    return Path(output) / readable / f"{run_name}-seed{int(seed)}"


def checkpoint_file(folder: str | Path, name: str = "last") -> Path:
    """Return where a run in a folder keeps a checkpoint, or will."""
    return Path(folder) / CHECKPOINTS / f"{name}.ckpt"


def checkpoint_in(run_or_file: str | Path, name: str = "last") -> Path:
    """Return the file that is meant by a run's folder or by a checkpoint file."""
    path = Path(run_or_file)
    return checkpoint_file(path, name) if path.is_dir() else path


def folder_of_checkpoint(path: str | Path) -> Path:
    """Return the folder for what is found out about a checkpoint file: its run's, or the one it lies in."""
    folder = Path(path).absolute().parent
    return folder.parent if folder.name == CHECKPOINTS else folder


def lies_in(checkpoint: str | Path, folder: str | Path) -> bool:
    """Return whether a checkpoint file is one of the run in a folder; links to either do not matter."""
    return folder_of_checkpoint(checkpoint).resolve() == Path(folder).resolve()


def check_writable(folder: Path) -> None:
    """Create a folder, or make sure that files can be created in it.

    Raises:
        UserError: If not.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # several ranks may try at once
            pass
    except OSError as error:
        raise UserError(f"folder {folder} is not writable ({error.strerror}): choose another with --output") from error


@contextmanager
def claimed_run_folder(folder: Path, resume: bool, trained: Callable[[], bool]) -> Iterator[None]:
    """Create the run's folder, or make sure that it may be used.

    A folder made here is taken away again if the user's input turns out to be wrong before anything was trained.

    Args:
        folder: The run's folder.
        resume: Whether this run goes on with what is in the folder.
        trained: Returns whether a gradient step was taken.

    Raises:
        UserError: If the folder cannot be written, or holds a run and this one does not continue it.
    """
    try:
        taken = checkpoint_file(folder).exists()
        missing = [path for path in (folder, *folder.parents) if not path.exists()]
    except OSError as error:
        raise UserError(f"folder {folder} cannot be used ({error.strerror}): choose another with --output") from error
    if taken and not resume:
        raise UserError(
            f"{folder} already holds a run: continue it with --ckpt_path last, or start another with --run_name NAME"
        )
    check_writable(folder)
    try:
        yield
    except UserError:
        if missing and not trained():
            _remove(missing)
        raise


def _remove(folders: list[Path]) -> None:
    """Remove a run's folder with what is in it, and those above it that are empty then; not one that is in use."""
    try:
        with lock_run_folder(folders[0]):
            shutil.rmtree(folders[0])
        for folder in folders[1:]:
            folder.rmdir()
    except (UserError, OSError):
        return


def named_checkpoint(folder: Path, wanted: str | None) -> str | None:
    """Return the file that ``--ckpt_path`` means: ``last`` and ``best`` lie in the run's folder."""
    return str(checkpoint_file(folder, wanted)) if wanted is not None and wanted in NAMED_CHECKPOINTS else wanted


def resume_point(folder: Path, wanted: str | None) -> tuple[str | None, int]:
    """Return the checkpoint that training goes on from (None: from the beginning), and its gradient step.

    ``last`` may be absent: a run that was killed before its first checkpoint is continued by the command that continues any.

    Raises:
        UserError: If the checkpoint is missing or cannot be read.
    """
    path = named_checkpoint(folder, wanted)
    if path is None:
        return None, 0
    if wanted == "last" and not Path(path).exists():
        rank_zero_info(f"no checkpoint in {folder} yet: starting from the beginning")
        return None, 0
    checkpoint = read_checkpoint(path)
    if "optimizer_states" not in checkpoint:
        raise UserError(
            f"{path} holds weights alone (it was saved with weights_only): a training goes on from a whole checkpoint; such a "
            "file can be tested, exported and loaded with load_policy"
        )
    return path, int(checkpoint["global_step"])


def lock_run_folder(folder: Path) -> AbstractContextManager[Any]:
    """Make sure that no second process trains into the folder; the lock lasts until the returned context ends.

    The operating system drops the lock when the process dies, however it dies. Of processes that train together, rank 0
    takes it for all. Windows has no such lock.

    Raises:
        FolderInUseError: If another process holds the lock.
        UserError: If the file cannot be opened.
    """
    if sys.platform == "win32":
        return nullcontext()
    import fcntl

    path = folder / LOCK
    try:
        lock = path.open("w")
    except OSError as error:
        raise UserError(f"the run's lock {path} cannot be opened ({error.strerror}): choose another --output") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        current = path.exists() and os.path.samestat(path.stat(), os.fstat(lock.fileno()))
    except BlockingIOError:
        current = False
    except OSError as error:  # some network file systems have no locks
        rank_zero_warn(f"no lock on {folder} ({error.strerror}): see to it yourself that no other process trains into it")
        return lock
    if not current:  # held, or removed by a process that gave up here a moment ago
        lock.close()
        raise FolderInUseError(
            f"another process is training into {folder}: wait for it, or start this run with --run_name NAME"
        )
    return lock
