"""A gradient step as a function between fixed addresses: a GPU records it once and repeats it with one launch.

A step of 64 critics is some 200 kernels of a few microseconds, which the host cannot start as fast as the GPU runs them. Not
measured on a GPU yet: ``python benchmarks/gpu_check.py``.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

from edp_lightning.algorithms.adam import PortableAdam
from edp_lightning.errors import UserError

WARM_UP = 3
"""Steps before the recording: compilation, libraries' workspaces and Adam's moments must be there."""


class StepOutputs(NamedTuple):
    """What a gradient step leaves behind, all detached; the next step overwrites it.

    Attributes:
        watched: Named scalars that must be finite.
        norms: By learner, the norm of each parameter's gradient.
        metrics: Further named scalars to log.
        q: Q-values of this rank's batch, shape (num_critics, batch), if there are critics.
        entropy: Entropy estimates of this rank's first states, if there are any.
    """

    watched: dict[str, Tensor]
    norms: dict[str, Tensor]
    metrics: dict[str, Tensor]
    q: Tensor | None
    entropy: Tensor | None


class RecordedStep:
    """Takes gradient steps by a function of tensors; its inputs are copied to, its outputs found at fixed addresses.

    On a GPU the function is recorded as a CUDA graph after ``WARM_UP`` steps, and run as it is, with a warning, if that fails.
    Elsewhere it is run as it is, between the same addresses.

    Args:
        function: Takes one gradient step on (batch, noise). It changes parameters and optimizers in place, draws no random
            numbers, and never waits for the device.
        optimizers: Those it steps. The first one's steps are counted.
        device: Where all of it lies.
    """

    def __init__(self, function: Callable[..., StepOutputs], optimizers: Sequence[PortableAdam], device: torch.device) -> None:
        self._function = function
        self._counted = optimizers[0]
        self._on_gpu = device.type == "cuda"
        self._inputs: tuple[Any, ...] | None = None
        self._outputs: StepOutputs | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self._steps = 0
        self._failed = False
        if self._on_gpu:
            for optimizer in optimizers:
                optimizer.make_capturable()

    def step(self, counted_step: Callable[[], Any], *inputs: Any) -> StepOutputs:
        """Take a gradient step as the one step of the counted optimizer that ``counted_step`` asks for."""
        self._place(inputs)
        self._counted.step_by(self._run, counted_step)
        self._steps += 1
        assert self._outputs is not None
        return self._outputs

    def _place(self, inputs: tuple[Any, ...]) -> None:
        if self._inputs is None:
            self._inputs = tree_map_only(Tensor, torch.clone, inputs)
            return
        into, found = ([leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)] for tree in (self._inputs, inputs))
        if [a.shape for a in into] != [b.shape for b in found]:
            raise UserError(
                "a batch has another size than those before it, which a recorded gradient step cannot take: give the loader "
                "drop_last=True, or set model.compile false"
            )
        torch._foreach_copy_(into, found)

    def _run(self) -> None:
        if self._graph is not None:
            self._graph.replay()
        elif not self._on_gpu or self._failed:
            self._keep(self._call())
        elif self._steps < WARM_UP:
            # A recording happens beside the usual stream; what is allocated lazily must have been so there.
            here, beside = torch.cuda.current_stream(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
            beside.wait_stream(here)
            with torch.cuda.stream(beside):
                self._outputs = self._call()
            here.wait_stream(beside)
        else:
            self._record()

    def _record(self) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, capture_error_mode="thread_local"):  # a checkpoint may be written meanwhile
                self._outputs = self._call()
        except Exception as error:  # whatever a kernel may object to
            self._failed, self._outputs = True, None
            rank_zero_warn(f"the gradient step could not be recorded as a CUDA graph and runs without, slower: {error}")
            self._keep(self._call())
            return
        rank_zero_info(f"the gradient step is one CUDA graph, recorded after {self._steps} steps")
        self._graph = graph
        graph.replay()

    def _call(self) -> StepOutputs:
        assert self._inputs is not None
        found: StepOutputs = tree_map_only(Tensor, torch.detach, self._function(*self._inputs))
        return found

    def _keep(self, outputs: StepOutputs) -> None:
        if self._outputs is None:
            self._outputs = tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, outputs)
            return
        for into, found in zip(tree_leaves(self._outputs), tree_leaves(outputs), strict=True):
            if isinstance(into, Tensor):
                into.copy_(found)


def why_not_recorded(compiled: bool, recordable: bool, ranks: int, optimizers: Sequence[Any], device: torch.device) -> str:
    """Return why a run's gradient steps are not recorded as a CUDA graph, or an empty string if they are.

    Args:
        compiled: The option ``model.compile``.
        recordable: Whether the algorithm has no ``gradient_step`` of its own.
        ranks: Number of ranks.
        optimizers: Those that a step uses.
        device: Where it runs.
    """
    if device.type != "cuda":
        return "not on a GPU"
    if not compiled:
        return "model.compile is false"
    if ranks > 1:
        return "several ranks are not measured with one"
    if not recordable:
        return "the algorithm has a gradient_step of its own"
    if not all(isinstance(optimizer, PortableAdam) for optimizer in optimizers):
        return "an optimizer is not this package's Adam"
    return ""
