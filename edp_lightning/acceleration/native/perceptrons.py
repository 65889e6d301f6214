"""An ensemble of perceptrons in one pass through the cache: hidden layers in bfloat16 on a CPU with AMX or AVX-512 BF16."""

import ctypes
import warnings
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import record_function

from edp_lightning.acceleration.native.library import BuildError, load_library
from edp_lightning.runs.cache_folder import cache_folder

_BASE = ("-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mavx512bf16", "-mfma")
FLAGS = {"amx_bf16": (*_BASE, "-mamx-tile", "-mamx-bf16"), "avx512_bf16": _BASE}
"""Instruction sets that there are passes for, the fastest first, under the names of ``/proc/cpuinfo``."""

_SOURCE = Path(__file__).with_name("perceptrons.cpp")


def fused_perceptrons() -> "FusedPerceptrons | None":
    """Return the fastest passes for this machine; None if there are none, with a warning if they cannot be built."""
    return next((fused for name in instruction_sets() if (fused := load_passes(name)) is not None), None)


@cache
def instruction_sets() -> tuple[str, ...]:
    """Return which of ``FLAGS`` this machine has."""
    try:
        features = Path("/proc/cpuinfo").read_text().split()
    except OSError:  # not Linux
        return ()
    return tuple(name for name in FLAGS if name in features)


@cache
def load_passes(instructions: str) -> "FusedPerceptrons | None":
    """Return the passes for one of ``FLAGS``; None if the system forbids them, or with a warning if they cannot be built."""
    try:
        library = load_library(_SOURCE, FLAGS[instructions], cache_folder() / "native")
    except BuildError as error:
        fix = "Install g++ 11 or newer, or set model.compile false"
        warnings.warn(
            f"the passes for {instructions} cannot be built ({error}): it goes on without, slower. {fix}", stacklevel=3
        )
        return None
    return FusedPerceptrons(library) if library.edp_enable() else None


class FusedPerceptrons:
    """Passes through all members of an ensemble.

    Hidden layers are followed by Mish; their products, activations and derivatives are bfloat16, sums, Mish and the output
    layer float32. All tensors are float32 on a CPU. Layers are given by weights (members, in, out) and biases
    (members, 1, out): at least one hidden layer, and the output layer.

    Args:
        library: Built from ``perceptrons.cpp``.
    """

    def __init__(self, library: ctypes.CDLL) -> None:
        self._library = library
        library.edp_forward.restype = library.edp_gradients.restype = None

    def forward(self, inputs: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> Tensor:
        """Return the outputs (members, rows, out) of ``inputs`` (rows, in)."""
        outputs = inputs.new_empty(len(weights[0]), len(inputs), weights[-1].shape[-1])
        self._call("edp_forward", inputs, weights, biases, _pointer(outputs))
        return outputs

    def td_gradients(
        self,
        inputs: Tensor,
        weights: Sequence[Tensor],
        biases: Sequence[Tensor],
        target: Tensor,
        scale: float,
        gradients: tuple[Sequence[Tensor], Sequence[Tensor]],
    ) -> Tensor:
        """Return the values (members, rows) of ``inputs`` (rows, in), and write gradients by all weights and biases.

        They are those of the sum over rows of ``scale / 2 (value - target)^2``, with ``target`` (members, rows). There is one
        output.
        """
        target = target.contiguous()
        values = torch.empty_like(target)
        by_weight, by_bias = map(_pointers, gradients)
        wanted = _pointer(target), ctypes.c_float(scale), by_weight, by_bias, ctypes.c_int64(0), None
        self._call("edp_gradients", inputs, weights, biases, *wanted, _pointer(values))
        return values

    def action_gradients(
        self, inputs: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], action_dim: int
    ) -> tuple[Tensor, Tensor]:
        """Return the values of ``inputs`` (rows, in) and their derivatives by its last columns; there is one output.

        Returns:
            Values (members, rows), derivatives (members, rows, action_dim).
        """
        members, rows = len(weights[0]), len(inputs)
        values, derivatives = inputs.new_empty(members, rows), inputs.new_empty(members, rows, action_dim)
        wanted = None, ctypes.c_float(0), None, None, ctypes.c_int64(action_dim), _pointer(derivatives)
        self._call("edp_gradients", inputs, weights, biases, *wanted, _pointer(values))
        return values, derivatives

    def _call(self, name: str, inputs: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], *further: Any) -> None:
        tensors = [tensor.contiguous() for tensor in (inputs, *weights, *biases)]  # alive during the call
        widths = [inputs.shape[1], *(weight.shape[2] for weight in weights)]
        with record_function(name):  # profilers do not see into the library
            getattr(self._library, name)(
                _pointer(tensors[0]),
                ctypes.c_int64(len(inputs)),
                ctypes.c_int64(len(weights[0])),
                ctypes.c_int64(len(weights) - 1),
                (ctypes.c_int64 * len(widths))(*widths),
                _pointers(tensors[1 : 1 + len(weights)]),
                _pointers(tensors[1 + len(weights) :]),
                ctypes.c_int64(torch.get_num_threads()),
                *further,
            )


def _pointer(tensor: Tensor) -> ctypes.c_void_p:
    if tensor.dtype != torch.float32 or tensor.device.type != "cpu" or not tensor.is_contiguous():
        raise TypeError(f"the fused passes take contiguous float32 tensors on a CPU, not {tensor.dtype} on {tensor.device}")
    return ctypes.c_void_p(tensor.data_ptr())


def _pointers(tensors: Sequence[Tensor]) -> Any:
    return (ctypes.c_void_p * len(tensors))(*map(_pointer, tensors))
