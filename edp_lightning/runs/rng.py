"""Seeds for counted random streams: the k-th draw of a stream depends on (seed, stream, k) and on nothing else.

Training needs no saved generator state this way: a resumed run re-creates the draws of any step from the step's number.
"""

import zlib
from contextlib import AbstractContextManager

_MASK = (1 << 64) - 1


def _mix(value: int) -> int:
    """SplitMix64's finaliser: neighbouring inputs give unrelated 64-bit outputs (Steele et al., OOPSLA 2014)."""
    value = (value + 0x9E3779B97F4A7C15) & _MASK
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def stream_seed(seed: int, stream: str, index: int) -> int:
    """Return the generator seed of draw ``index`` of a named stream.

    PyTorch's CPU generator keeps only the low 32 bits of a seed, so hashing ``index`` would let two steps of one run collide
    (birthday paradox). The index is therefore *added* to a hashed offset: seeds are unique within 2**32 draws of a stream.

    Args:
        seed: The run's seed.
        stream: Name of the stream, for example ``"batches"``.
        index: Number of the draw, at least 0.

    Returns:
        An integer in [0, 2**32).
    """
    offset = _mix(_mix(seed & _MASK) ^ zlib.crc32(stream.encode()))
    return (offset + index) & 0xFFFFFFFF


def untouched_streams() -> AbstractContextManager[None]:
    """Return a context after which the global random streams are as before; no GPU is started for its state.

    After an exception nothing is restored.
    """
    import torch  # seeds are also for processes that need no torch
    from lightning.pytorch.utilities.seed import isolate_rng

    on_gpu: bool = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    return isolate_rng(include_cuda=on_gpu)
