"""What torch is asked to do: operators with the devices and dtypes of their results, on real, fake or meta tensors."""

import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from edp_lightning.acceleration.native.library import BuildError, load_library

VIEWS = {
    "view",
    "t",
    "transpose",
    "expand",
    "slice",
    "select",
    "split",
    "split_with_sizes",
    "unsqueeze",
    "squeeze",
    "detach",
    "alias",
}
VIEWS |= {"_unsafe_view", "as_strided", "permute", "unbind", "lift_fresh", "chunk", "narrow"}
"""Operators that start nothing on a device."""

SYNCHRONISATIONS = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select"}
"""Operators for which the host waits until the device is done."""


class Operators(TorchDispatchMode):
    """Records every operator that is dispatched while it is on.

    Attributes:
        counts: How often each operator ran, by name, views left out.
        results: (name, device type, dtype) of each result.
        written: Bytes of all results, views left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.results: list[tuple[str, str, torch.dtype]] = []
        self.written = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        name = function.name().removeprefix("aten::").partition(".")[0]
        if name.startswith("prim::"):  # a question, not an operator
            return found
        tensors = [leaf for leaf in tree_leaves(found) if isinstance(leaf, Tensor)]
        if name not in VIEWS:
            self.counts[name] += 1
            self.written += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        self.results += [(name, tensor.device.type, tensor.dtype) for tensor in tensors]
        return found

    @property
    def synchronisations(self) -> int:
        return sum(self.counts[name] for name in SYNCHRONISATIONS)

    def on(self, device_type: str) -> set[tuple[str, torch.dtype]]:
        """Return operators and dtypes of the results that lie on a kind of device."""
        return {(name, dtype) for name, device, dtype in self.results if device == device_type}


NO_GUARD = """#include <c10/core/impl/DeviceGuardImplInterface.h>
C10_REGISTER_GUARD_IMPL(CUDA, c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA>)
"""
"""What builds of torch for CPUs lack to slice tensors that claim to be on a GPU."""


@cache
def _allow_fake_gpu() -> str:
    """Return why there can be no fake GPU in this process, or an empty string once there can."""
    if torch.version.cuda is not None:
        return ""
    root = Path(torch.__file__).parent
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "guard.cpp"
        source.write_text(NO_GUARD)
        try:
            load_library(
                source,
                [f"-I{root / 'include'}", f"-L{root / 'lib'}", "-std=c++20", "-Wl,--no-as-needed", "-lc10"],
                Path(folder),
            )
        except BuildError as error:
            return str(error)
    return ""


@contextmanager
def fake_gpu() -> Iterator[Operators]:
    """Tensors on ``cuda:0`` without one: shapes, dtypes and devices, no values, and no backward pass of autograd."""
    reason = _allow_fake_gpu()
    if reason:
        pytest.skip(f"no fake GPU: {reason}")
    with FakeTensorMode(), torch.no_grad(), Operators() as operators:
        yield operators
