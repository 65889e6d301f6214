"""Compiled functions that fall back to eager execution where nothing can be compiled."""

import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

P = ParamSpec("P")
R = TypeVar("R")


def start_step(device: torch.device) -> None:
    """Say that results of earlier gradient steps are no longer needed: CUDA graphs reuse their memory."""
    if device.type == "cuda":
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]


def _compile(function: Callable[P, R], device: torch.device, dynamic: bool) -> Callable[P, R]:
    if device.type != "cuda" or dynamic:
        return torch.compile(function, dynamic=dynamic)
    graphed = torch.compile(function, dynamic=False, mode="reduce-overhead")  # CUDA graphs: one launch per call

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        # Results lie in the graph's memory, which its next replay overwrites.
        copied: R = tree_map_only(Tensor, torch.clone, graphed(*args, **kwargs))
        return copied

    return call


def compile_or_eager(function: Callable[P, R], device: torch.device, dynamic: bool = False) -> Callable[P, R]:
    """Return ``torch.compile(function)`` that becomes ``function`` itself, with a warning, if compilation fails.

    Compilation happens at the first call and needs a C++ compiler on a CPU, Triton on a GPU. The function must have no side
    effects: after a failure it is called again. An error of the function itself is raised by that second call.

    Args:
        function: A function of tensors.
        device: Where it runs. On a GPU it is recorded as a CUDA graph (not measured on one yet), unless it is dynamic.
        dynamic: Whether the tensors' shapes change from call to call; otherwise each new shape is compiled for itself.
    """
    compiled = _compile(function, device, dynamic)
    chosen: Callable[P, R] | None = None

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        nonlocal chosen
        if chosen is not None:
            return chosen(*args, **kwargs)
        try:
            with warnings.catch_warnings():
                # the compiler looks at the gradients of its inputs, also of those that are results of another function
                warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
                result = compiled(*args, **kwargs)
            chosen = compiled
        except Exception as error:  # backends raise many types
            result = function(*args, **kwargs)
            chosen = function
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            warnings.warn(
                f"torch.compile failed ({reason}): it goes on without, slower. Install a C++ compiler (CPU) or Triton "
                "(GPU), or set model.compile false",
                stacklevel=2,
            )
        return result

    return call
