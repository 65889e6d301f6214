"""Checkpoints that are either whole or absent."""

import copy
import os
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from lightning.fabric.plugins.io.torch_io import TorchCheckpointIO
from torch import Tensor
from torch.utils._pytree import tree_leaves

from edp_lightning.errors import UserError

FORMAT_VERSION = 1
"""Layout of this package's part of a checkpoint; raised whenever an older file needs converting."""

FORMAT_KEY = "edp_lightning_format"

IN_BACKGROUND = {"background": True}
"""``storage_options`` of a checkpoint that is written while training goes on."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """Return a checkpoint of this package, on the CPU. Never executes pickled code.

    Raises:
        UserError: If the file is missing, truncated, foreign or of a newer format.
    """
    if not Path(path).is_file():
        raise UserError(f"checkpoint {path} does not exist")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler of a damaged file meets with anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"checkpoint {path} cannot be read ({reason}): it is truncated or not a checkpoint; use an earlier one"
        ) from error
    if isinstance(checkpoint, dict) and FORMAT_KEY not in checkpoint and _is_from_a_notebook(checkpoint):
        checkpoint[FORMAT_KEY] = 1
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get(FORMAT_KEY), int):
        raise UserError(f"{path} is not a checkpoint of edp_lightning (no {FORMAT_KEY} in it)")
    if checkpoint[FORMAT_KEY] > FORMAT_VERSION:
        raise UserError(
            f"checkpoint {path} has format {checkpoint[FORMAT_KEY]}, newer than {FORMAT_VERSION}: update edp_lightning"
        )
    return checkpoint


def owes_evaluation(checkpoint: Mapping[str, Any]) -> bool:
    """Return whether an evaluation of this state was given up: the run that goes on makes up for it."""
    return bool(checkpoint.get("callbacks", {}).get("EnvironmentEvaluation", {}).get("owed"))


def _is_from_a_notebook(checkpoint: dict[str, Any]) -> bool:
    """Return whether a trainer of the user's own saved an algorithm of this package, before algorithms wrote the format."""
    hyper_parameters, state = checkpoint.get("hyper_parameters"), checkpoint.get("state_dict")
    if not isinstance(hyper_parameters, dict) or not isinstance(state, dict) or "global_step" not in checkpoint:
        return False
    return "observation_dim" in hyper_parameters and {"normalizer.mean", "action_scaler.low"} <= state.keys()


def _sync_folder(folder: Path) -> None:
    """Bring a rename through to the disk; without this a power cut may undo it. Windows cannot and need not."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def snapshot(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of a checkpoint on the CPU that nothing changes any more; what was shared in it still is."""
    tensors = [leaf for leaf in tree_leaves(checkpoint) if isinstance(leaf, Tensor)]
    copies: dict[int, Any] = {id(tensor): tensor.detach().to("cpu", copy=True) for tensor in tensors}
    return copy.deepcopy(checkpoint, copies)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside the target, flushes to disk and renames; a killed or failed save leaves the previous file as it was.

    One file at a time: whatever is saved, also with ``IN_BACKGROUND``, waits until the file before is written.
    """

    def __init__(self) -> None:
        self._thread: ThreadPoolExecutor | None = None
        self._writing: Future[None] | None = None

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any | None = None) -> None:
        """Save atomically; with ``storage_options=IN_BACKGROUND`` the state of now, in a thread.

        Raises:
            UserError: If the disk is full or not writable, now or for the file before; the earlier checkpoint is intact.
        """
        self.finish()
        checkpoint[FORMAT_KEY] = FORMAT_VERSION
        if storage_options != IN_BACKGROUND:
            _write(checkpoint, Path(path))
            return
        self._thread = self._thread or ThreadPoolExecutor(1, "checkpoint")
        self._writing = self._thread.submit(_write, snapshot(checkpoint), Path(path))

    def finish(self) -> None:
        """Wait for the file that is being written in the background.

        Raises:
            UserError: If it could not be written.
        """
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def teardown(self) -> None:
        """Wait for the file that is being written, and let go of the thread."""
        try:
            self.finish()
        finally:
            if self._thread is not None:
                self._thread.shutdown()
                self._thread = None

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = True) -> dict[str, Any]:
        """Load a checkpoint of this package; see :func:`read_checkpoint`."""
        self.finish()
        return read_checkpoint(path)


def _write(checkpoint: dict[str, Any], target: Path) -> None:
    temporary = target.with_name(f".{target.name}.writing")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
        _sync_folder(target.parent)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        if not isinstance(error, (OSError, RuntimeError)):
            raise
        reason = error.__context__ if isinstance(error.__context__, OSError) else error  # torch hides it behind its own
        raise UserError(
            f"checkpoint {target} could not be written ({reason}): free space or choose another folder; "
            "the checkpoint saved before it is intact"
        ) from error
