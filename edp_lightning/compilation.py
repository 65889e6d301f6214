"""Compiled functions that fall back to eager execution where nothing can be compiled."""

import warnings
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")


def compile_or_eager(function: Callable[P, R]) -> Callable[P, R]:
    """Return ``torch.compile(function)`` that becomes ``function`` itself, with a warning, if compilation fails.

    Compilation happens at the first call and needs a C++ compiler on a CPU, Triton on a GPU. The function must have no side
    effects: after a failure it is called again. An error of the function itself is raised by that second call.

    Args:
        function: A function of tensors with fixed shapes.
    """
    compiled = torch.compile(function, dynamic=False)
    chosen: Callable[P, R] | None = None

    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        nonlocal chosen
        if chosen is not None:
            return chosen(*args, **kwargs)
        try:
            result = compiled(*args, **kwargs)
            chosen = compiled
        except Exception as error:  # backends raise many types
            result = function(*args, **kwargs)
            chosen = function
            reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
            warnings.warn(
                f"torch.compile failed ({reason}): training goes on without it, slower. Install a C++ compiler (CPU) or Triton "
                "(GPU), or set model.compile false",
                stacklevel=2,
            )
        return result

    return call
