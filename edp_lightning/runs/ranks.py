"""What all ranks must agree on."""

import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from edp_lightning.errors import UserError


def is_distributed() -> bool:
    """Return whether there is more than one rank."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def largest_over_ranks(value: float, device: torch.device) -> float:
    """Return the largest of a number over all ranks; the number itself on one."""
    if not is_distributed():
        return value
    shared = torch.tensor(value, dtype=torch.float64, device=device)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return float(shared)


def gather_objects(value: Any) -> list[Any]:
    """Return one plain Python object per rank, in the order of the ranks."""
    if not is_distributed():
        return [value]
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, value)
    return parts


def named_tensors(state: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """Yield the tensors of nested mappings and sequences with their slash-separated names."""
    if isinstance(state, Tensor):
        yield name, state
    elif isinstance(state, Mapping):
        for key, value in state.items():
            yield from named_tensors(value, f"{name}/{key}" if name else str(key))
    elif isinstance(state, Sequence) and not isinstance(state, str):
        for index, value in enumerate(state):
            yield from named_tensors(value, f"{name}/{index}")


def digest(tensor: Tensor) -> int:
    """Return a checksum of a tensor's bytes."""
    return zlib.crc32(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())


def check_agreement(state: Any) -> None:
    """Make sure that every tensor of a state is bit for bit the same on all ranks. All ranks must call this together.

    Raises:
        UserError: On every rank, naming the first tensor that differs and the rank.
    """
    if not is_distributed():
        return
    parts = gather_objects({name: digest(tensor) for name, tensor in named_tensors(state)})
    for rank, part in enumerate(parts[1:], start=1):
        names = [*parts[0], *(name for name in part if name not in parts[0])]
        different = [name for name in names if part.get(name) != parts[0].get(name)]
        if different:
            more = f" and {len(different) - 1} more tensors" if len(different) > 1 else ""
            raise UserError(
                f"rank {rank} and rank 0 no longer hold the same {different[0]}{more}: nothing was saved, the checkpoint saved "
                "before it is intact. All ranks need the same versions and kind of device, and a callback that changes "
                "weights must do so on every rank"
            )
