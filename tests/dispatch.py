"""A GPU where there is none: tensors that claim to be on one."""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from benchmarks.operators import Operators
from edp_lightning.acceleration.native.library import BuildError, load_library

NO_GUARD = """#include <c10/core/impl/DeviceGuardImplInterface.h>
C10_REGISTER_GUARD_IMPL(CUDA, c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA>)
"""
"""What builds of torch for CPUs lack to slice tensors that claim to be on a GPU."""


@contextmanager
def default_device(name: str) -> Iterator[None]:
    """Make a device the default one, where PyTorch tells."""
    with torch.device(name):
        if torch.get_default_device().type != name:
            pytest.skip("PyTorch 2.7 does not tell which device is the default one")
        yield


@cache
def _allow_fake_gpu() -> str:
    """Return why there can be no fake GPU in this process, or an empty string once there can."""
    if torch.version.cuda is not None:
        return "" if torch.cuda.is_available() else "this build of torch wants a driver even for it"
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
