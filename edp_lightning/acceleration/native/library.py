"""Builds a C++ file into a shared library once per machine, as ``torch.compile`` does with the code that it writes."""

import ctypes
import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path


class BuildError(Exception):
    """A library could not be built; the message says why in one line."""


def load_library(source: Path, flags: Sequence[str], folder: Path) -> ctypes.CDLL:
    """Return the library of a C++ file, built with ``CXX`` or ``g++`` unless ``folder`` has it.

    A library is named by a digest of sources, compiler and flags, and renamed only when it is whole: several processes may
    build it at the same time, and any of them may be killed.

    Args:
        source: A file that needs nothing but the standard library, OpenMP and headers (``.h``) beside it.
        flags: Options of the compiler. They name a processor, not ``native``: a home folder may be shared by several.
        folder: Where libraries are kept.

    Raises:
        BuildError: If there is no compiler, it refuses, or the folder cannot be written.
    """
    command = [*compiler_command(), "-O3", "-std=c++17", "-shared", "-fPIC", "-fopenmp", *flags]
    texts = [path.read_text() for path in (source, *sorted(source.parent.glob("*.h")))]
    digest = hashlib.sha256("\0".join([*command, *texts]).encode()).hexdigest()[:16]
    path = folder / f"{source.stem}-{digest}.so"
    try:
        if not path.exists():
            _build([*command, str(source)], path)
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise BuildError(f"{path}: {error}") from error


def compiler_command() -> list[str]:
    """Return the words of ``CXX``, which may have a wrapper and options as in ``ccache g++``; without it ``g++``.

    Raises:
        BuildError: If the words cannot be told apart.
    """
    chosen = os.environ.get("CXX", "")
    try:
        return shlex.split(chosen) or ["g++"]
    except ValueError as error:
        raise BuildError(f"CXX is {chosen!r}: {error}") from error


def _build(command: Sequence[str], path: Path) -> None:
    if shutil.which(command[0]) is None:
        raise BuildError(f"there is no C++ compiler {command[0]!r}")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".building-", dir=path.parent) as scratch:
        built = Path(scratch) / path.name
        done = subprocess.run([*command, "-o", str(built)], capture_output=True, text=True)
        if done.returncode != 0:
            reason = next((line for line in done.stderr.splitlines() if "error" in line), f"exit status {done.returncode}")
            raise BuildError(f"{command[0]}: {reason}")
        built.replace(path)
