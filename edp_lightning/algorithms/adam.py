"""Adam whose state travels between devices, and whose step another function can take."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


class PortableAdam(torch.optim.Adam):
    """Fused Adam with two forms: the usual one, and what a CUDA graph needs (``capturable``, the rate a tensor on the device).

    A checkpoint always holds the usual form, and loading one changes this optimizer's moments, never its form: files travel
    between CPU and GPU, and between runs with and without a graph.

    Args:
        parameters: What is learned.
        lr: Learning rate.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], lr: float) -> None:
        super().__init__(parameters, lr=lr, fused=True)
        self._stand_in: Callable[[], Any] | None = None

    def make_capturable(self) -> None:
        """Take the form that a CUDA graph can record; the parameters must be on the GPU."""
        for group in self.param_groups:
            group["capturable"] = True
            group["lr"] = torch.tensor(float(group["lr"]), device=group["params"][0].device)

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take one step; or let the stand-in of :meth:`step_by` take it."""
        stand_in, self._stand_in = self._stand_in, None  # which may step this optimizer itself
        if stand_in is None:
            return super().step(closure)
        if closure is not None:
            closure()
        return stand_in()

    def _accelerator_graph_capture_health_check(self) -> None:
        """Ask nothing of a GPU that holds no parameter: PyTorch 2.15 asks for its stream, which starts it."""
        if not self.param_groups[0]["params"][0].is_cpu:
            super()._accelerator_graph_capture_health_check()

    def step_by(self, stand_in: Callable[[], Any], step: Callable[[], Any]) -> None:
        """Call ``step`` with ``stand_in`` in the place of this optimizer's own step.

        Lightning counts gradient steps by an optimizer's steps: with ``step`` that of its wrapper, ``stand_in`` is counted.
        """
        self._stand_in = stand_in
        try:
            step()
        finally:
            self._stand_in = None

    def state_dict(self) -> dict[str, Any]:
        """Return the state in the usual form."""
        state = super().state_dict()
        groups = [group | {"capturable": False, "lr": float(group["lr"])} for group in state["param_groups"]]
        return state | {"param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load moments and rates of a state of either form; this optimizer keeps its form."""
        form = [{name: group[name] for name in ("capturable", "fused")} for group in self.param_groups]
        own_rates = [group["lr"] for group in self.param_groups]
        rates = [float(group["lr"]) for group in state_dict["param_groups"]]
        groups = [group | own | {"lr": rate} for group, own, rate in zip(state_dict["param_groups"], form, rates, strict=True)]
        super().load_state_dict(state_dict | {"param_groups": groups})
        for group, own_rate, rate in zip(self.param_groups, own_rates, rates, strict=True):
            if isinstance(own_rate, Tensor):  # the one that a graph reads
                group["lr"] = own_rate.fill_(rate)
