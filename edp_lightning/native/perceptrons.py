"""An ensemble of perceptrons in one pass through the cache: hidden layers in bfloat16 on a CPU with AMX."""

import ctypes
import warnings
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

from edp_lightning.data.cache import cache_folder
from edp_lightning.native.library import BuildError, load_library

Forward = Callable[[Tensor, Sequence[Tensor], Sequence[Tensor]], Tensor]
"""(rows (rows, in), weights (members, in, out) of each layer, biases (members, 1, out)) -> (members, rows, out), all float32.

Hidden layers are followed by Mish; their products and activations are bfloat16, sums, Mish and the output layer float32."""

# Without the last two groups neither minima nor sums become vector instructions. NaN still passes through products.
FLAGS = ("-march=sapphirerapids", "-mprefer-vector-width=512", "-ffp-contract=fast")

_SOURCE = Path(__file__).with_name("perceptrons.cpp")


def fused_forward() -> Forward | None:
    """Return the pass, or None where the processor has no AMX, or with a warning where it cannot be built."""
    return _fused_forward() if has_amx() else None


@cache
def has_amx() -> bool:
    """Return whether this machine multiplies bfloat16 tiles, and its system lets programs do so."""
    try:
        return " amx_bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return False


@cache
def _fused_forward() -> Forward | None:
    try:
        library = load_library(_SOURCE, FLAGS, cache_folder() / "native")
    except BuildError as error:
        warnings.warn(f"the fused forward pass is not used, evaluation is slower: {error}", stacklevel=3)
        return None
    if not library.edp_enable():
        return None
    library.edp_forward.restype = None
    return _FusedForward(library)


class _FusedForward:
    """``Forward`` by the library."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library

    def __call__(self, rows: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
        tensors = [t.detach().contiguous() for t in (rows, *weights, *biases)]
        if any(t.dtype != torch.float32 or t.device.type != "cpu" for t in tensors):
            raise TypeError("the fused forward pass takes float32 tensors on a CPU")
        widths = [rows.shape[1], *(w.shape[2] for w in weights)]
        outputs = rows.new_empty(len(weights[0]), len(rows), widths[-1])
        pointers = [t.data_ptr() for t in tensors[1:]]
        self._library.edp_forward(
            ctypes.c_void_p(tensors[0].data_ptr()),
            ctypes.c_int64(len(rows)),
            ctypes.c_int64(len(weights[0])),
            ctypes.c_int64(len(weights) - 1),
            (ctypes.c_int64 * len(widths))(*widths),
            (ctypes.c_void_p * len(weights))(*pointers[: len(weights)]),
            (ctypes.c_void_p * len(biases))(*pointers[len(weights) :]),
            ctypes.c_int64(torch.get_num_threads()),
            ctypes.c_void_p(outputs.data_ptr()),
        )
        return outputs

