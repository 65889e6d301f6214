"""One folder per run: config.yaml, checkpoints, TensorBoard events and results live together."""

import re
from pathlib import Path

from edp_lightning.errors import UserError


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
        probe = folder / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"run folder {folder} is not writable ({error.strerror}): choose another with --output") from error
