"""One folder per run: config.yaml, checkpoints, TensorBoard events and results live together."""

import re
import sys
import tempfile
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

from lightning.pytorch.utilities import rank_zero_info, rank_zero_only

from edp_lightning.errors import UserError
from edp_lightning.runs.checkpoint_io import read_checkpoint

NAMED_CHECKPOINTS = ("last", "best")
"""Values of --ckpt_path that mean a file in the run's folder."""


def run_folder(output: str, dataset: str, run_name: str, seed: int | bool) -> Path:
    """Return OUTPUT/DATASET/RUN_NAME-seedSEED; characters of the dataset that are unfit for a file name become dashes."""
    readable = re.sub(r"[^\w.-]+", "-", dataset).strip("-.")
    return Path(output) / readable / f"{run_name}-seed{int(seed)}"


def claim_run_folder(folder: Path, resume: bool) -> None:
    """Create the run's folder, or make sure that it may be used.

    Raises:
        UserError: If the folder cannot be written, or holds a run and this one does not continue it.
    """
    if not resume and (folder / "checkpoints" / "last.ckpt").exists():
        raise UserError(
            f"{folder} already holds a run: continue it with --ckpt_path last, or start another with --run_name NAME"
        )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):  # several ranks may try at once
            pass
    except OSError as error:
        raise UserError(f"run folder {folder} is not writable ({error.strerror}): choose another with --output") from error


def named_checkpoint(folder: Path, wanted: str | None) -> str | None:
    """Return the file that ``--ckpt_path`` means: ``last`` and ``best`` lie in the run's folder."""
    return str(folder / "checkpoints" / f"{wanted}.ckpt") if wanted in NAMED_CHECKPOINTS else wanted


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
    return path, int(read_checkpoint(path)["global_step"])


def lock_run_folder(folder: Path) -> AbstractContextManager[Any]:
    """Make sure that no second process trains into the folder; the lock lasts until the returned context ends.

    The operating system drops the lock when the process dies, however it dies. Ranks other than 0 leave it to rank 0;
    Windows has no such lock.

    Raises:
        UserError: If another process holds the lock.
    """
    if getattr(rank_zero_only, "rank", 0) != 0 or sys.platform == "win32":
        return nullcontext()
    import fcntl

    lock = (folder / ".lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        lock.close()
        raise UserError(
            f"another process is training into {folder}: wait for it, or start this run with --run_name NAME"
        ) from error
    return lock
