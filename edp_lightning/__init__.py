"""Offline reinforcement learning with entropy-regularised diffusion policies and Q-ensembles (arXiv 2402.04080)."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("edp_lightning")
except PackageNotFoundError:  # a source tree that was never installed
    __version__ = "0.0.0+source"

__all__ = ["__version__"]
