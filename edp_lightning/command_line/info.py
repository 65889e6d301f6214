"""The ``info`` command: what a bug report needs to say about this machine. Quick, and needs no dataset."""

import argparse
import importlib
import os
import platform
import re
import shutil
import sys
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from edp_lightning import __version__
from edp_lightning.errors import UserError, first_line

Section = dict[str, str]

VARIABLES = (
    *("CUDA_VISIBLE_DEVICES", "CXX", "D4RL_DATASET_DIR", "EDP_LIGHTNING_CACHE", "HDF5_USE_FILE_LOCKING", "HF_HUB_OFFLINE"),
    *("MINARI_DATASETS_PATH", "MINARI_REMOTE", "MKL_NUM_THREADS", "MUJOCO_GL", "OGBENCH_DATASET_DIR", "OMP_NUM_THREADS"),
    *("SLURM_JOB_ID", "TORCHDYNAMO_DISABLE", "WORLD_SIZE"),
)
"""Environment variables that change what a run does."""

FRAMEWORKS = ("torch", "lightning", "gymnasium", "minari", "mujoco")
"""Modules that are tried: an installed package may still fail to load."""


def run(arguments: list[str]) -> None:
    """Print versions, devices, what is accelerated and why not, folders and environment variables.

    Args:
        arguments: The command line after ``info``; there are no options.
    """
    summary = "Print versions, devices, what is accelerated and why not, and folders: what a bug report needs."
    argparse.ArgumentParser(prog="edp_lightning info", description=summary).parse_args(arguments)
    for title, section in sections().items():
        print(f"{title}:")
        width = max(map(len, section), default=0)
        for name, value in section.items():
            print(f"  {name:{width}}  {value}")
        print()


def sections() -> dict[str, Section]:
    """Return all that is printed, by section; what cannot be found out says why instead."""
    return {
        "versions": _versions(),
        "extras": _extras(),
        "devices": _tried(_devices),
        "acceleration": _tried(_acceleration),
        "folders": _tried(_folders),
        "environment variables": {name: os.environ[name] for name in VARIABLES if name in os.environ} or {"none set": ""},
    }


def _tried(find: Callable[[], Section]) -> Section:
    try:
        return find()
    except Exception as error:  # a broken installation is what reports are about
        return {"failed": first_line(error)}


def _installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _requirements() -> list[tuple[str, str]]:
    """Return (package, extra) of everything this package asks for; the extra is empty for what it cannot do without."""
    try:
        entries = requires("edp_lightning") or []
    except PackageNotFoundError:  # a source tree that was never installed
        entries = []
    found = []
    for entry in entries:
        extra = re.search(r"extra == ['\"](\w+)['\"]", entry)
        name = re.match(r"[\w.-]+", entry)
        if name is not None:
            found.append((name[0], extra[1] if extra else ""))
    return found


def _versions() -> Section:
    found = {
        "edp_lightning": f"{__version__}, in {Path(__file__).parents[1]}",
        "python": f"{platform.python_version()}, {sys.executable}",
        "system": platform.platform(),
    }
    packages = [name for name, extra in _requirements() if not extra] or list(FRAMEWORKS)
    found |= {name: _installed(name) for name in packages}
    for module in FRAMEWORKS:
        try:
            importlib.import_module(module)
        except Exception as error:  # whatever a broken package raises
            found[module] += f", but importing it fails: {first_line(error)}"
    return found


def _extras() -> Section:
    packages: dict[str, list[str]] = {}
    for name, extra in _requirements():
        if extra and extra != "test":
            packages.setdefault(extra, []).append(f"{name} {_installed(name)}")
    return {extra: ", ".join(names) for extra, names in packages.items()} or {"unknown": "the package is not installed"}


def _devices() -> Section:
    import torch

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    threads = torch.get_num_threads()
    found = {"processor": f"{processor()}, {usable} of {os.cpu_count()} cores usable, {threads} threads of torch"}
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        found["memory"] = f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 2**30:.1f} GiB"
    if not torch.cuda.is_available():
        built = torch.version.cuda
        found["GPU"] = "none: torch is built without CUDA" if built is None else f"none found; torch is built for CUDA {built}"
        return found
    for index in range(torch.cuda.device_count()):
        facts = torch.cuda.get_device_properties(index)
        memory = f"{facts.total_memory / 2**30:.0f} GiB"
        found[f"cuda:{index}"] = f"{facts.name}, {memory}, compute capability {facts.major}.{facts.minor}"
    return found


def processor() -> str:
    """Return the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _acceleration() -> Section:
    import torch

    from edp_lightning.acceleration.native.library import compiler_command
    from edp_lightning.acceleration.native.perceptrons import FLAGS, instruction_sets
    from edp_lightning.acceleration.precision import TENSOR_CORES_SINCE, WORTHWHILE, bfloat16_speedup

    speedup = bfloat16_speedup(torch.device("cpu"))
    chosen = "bfloat16" if speedup >= WORTHWHILE else "float32"
    compiler = compiler_command()[0]
    where = shutil.which(compiler)
    sets = instruction_sets()
    if not sets:
        fused = f"no: the processor has none of {', '.join(FLAGS)}"
    else:
        fused = f"yes, for {sets[0]}" if where else f"no: {sets[0]} is there, a C++ compiler is not"
    found = {
        "bfloat16 on the processor": f"{speedup:.2g} times as fast as float32: hidden_precision auto takes {chosen}",
        "model.compile": f"yes, with {where}" if where else f"no: there is no C++ compiler {compiler}; it goes on without",
        "passes in C++ (bfloat16, compiled)": fused,
    }
    if torch.cuda.is_available():
        capable = torch.cuda.get_device_capability() >= TENSOR_CORES_SINCE
        found["bfloat16 on the GPU"] = "yes" if capable else "no: compute capability below 8.0"
        found["CUDA graph of the gradient step"] = "with model.compile, on one GPU"
    return found


def _folders() -> Section:
    from edp_lightning.collect.dataset_folder import dataset_folder
    from edp_lightning.data.sources import d4rl_catalogue, ogbench_names
    from edp_lightning.runs.cache_folder import cache_folder

    found = {"working folder": str(Path.cwd())}
    places = {"cache": cache_folder, "Minari sets": dataset_folder, "D4RL files": d4rl_catalogue.cache_folder}
    places["OGBench files"] = ogbench_names.data_folder
    for name, find in places.items():
        try:
            found[name] = _described(find())
        except (UserError, ImportError, OSError) as error:
            found[name] = first_line(error)
    return found


def _described(folder: Path) -> str:
    if not folder.exists():
        return f"{folder} (not there yet)"
    return f"{folder}, {shutil.disk_usage(folder).free / 2**30:.0f} GiB free"
