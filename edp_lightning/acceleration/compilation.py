"""Compiled functions that fall back to eager execution where nothing can be compiled."""

import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
import torch.distributed as dist

P = ParamSpec("P")
R = TypeVar("R")


def _compile(function: Callable[P, R], dynamic: bool) -> Callable[P, R]:
    if dist.is_available() and dist.is_initialized():
        # Graphs would be split at the buckets of DistributedDataParallel, which averages none of these gradients.
        torch._dynamo.config.optimize_ddp = False
    return torch.compile(function, dynamic=dynamic)


def compile_or_eager(function: Callable[P, R], dynamic: bool = False) -> Callable[P, R]:
    """Return ``torch.compile(function)`` that becomes ``function`` itself, with a warning, if compilation fails.

    Compilation happens at the first call with arguments of a kind, and needs a C++ compiler on a CPU, Triton on a GPU. The
    function must have no side effects: after a failure it is called again. An error of the function itself is raised by that
    second call.

    Args:
        function: A function of tensors.
        dynamic: Whether the tensors' shapes change from call to call; otherwise each new shape is compiled for itself.
    """
    compiled = _compile(function, dynamic)
    quiet, failed = False, False

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        nonlocal quiet, failed
        if failed:
            return function(*args, **kwargs)
        try:
            if quiet:
                return compiled(*args, **kwargs)
            with warnings.catch_warnings():
                # the compiler looks at the gradients of its inputs, also of those that are results of another function
                warnings.filterwarnings("ignore", message="The .grad attribute of a Tensor that is not a leaf")
                result = compiled(*args, **kwargs)
            quiet = True
        except Exception as error:  # backends raise many types
            result = function(*args, **kwargs)
            failed = True
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            warnings.warn(
                f"torch.compile failed ({reason}): it goes on without, slower. Install a C++ compiler (CPU) or Triton "
                "(GPU), or set model.compile false",
                stacklevel=2,
            )
        return result

    return call


def preparation(compiled: bool, dynamic: bool = False) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Return a function that compiles others, as :func:`compile_or_eager` does, or leaves them as they are.

    Args:
        compiled: Whether to compile.
        dynamic: Whether the tensors' shapes change from call to call.
    """

    def prepare(function: Callable[P, R]) -> Callable[P, R]:
        return compile_or_eager(function, dynamic) if compiled else function

    return prepare
