"""A whole decision as one function of tensors: normaliser, policy, candidates, choice, action scale."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from edp_lightning.algorithms.offline_algorithm import OfflineAlgorithm
from edp_lightning.errors import UserError
from edp_lightning.export.draws import GivenDraws, RecordedDraws
from edp_lightning.policies.shared_observation import SharedObservation

UNUSED = {"normal": 0.0, "uniform": 0.5}
"""Law of a draw -> what stands in the graph for one that changes nothing."""


class Decision(nn.Module):
    """What ``act`` of an algorithm computes, with its random numbers as inputs.

    Args:
        algorithm: A trained algorithm on the CPU, for this alone: its chooser is replaced, networks that do not act emptied.
        dynamic: Whether there may be any number of rows; otherwise there is one.

    Attributes:
        draws: The random numbers that it takes.

    Raises:
        UserError: If actions depend on more than the observation and random numbers.
    """

    def __init__(self, algorithm: OfflineAlgorithm, dynamic: bool) -> None:
        super().__init__()
        if type(algorithm).reset is not OfflineAlgorithm.reset:
            raise UserError(
                f"{type(algorithm).__name__} remembers its episode, and an exported file holds one decision without a memory: "
                "use load_policy in the program that acts"
            )
        self.algorithm = algorithm.eval().requires_grad_(False)
        self.dynamic = dynamic
        self.chooser: SharedObservation | None = None
        if algorithm.chooser is not None:
            self.chooser = algorithm.chooser = SharedObservation()
        generator = torch.Generator()
        with RecordedDraws([generator]) as recorded:
            used = _used(lambda: algorithm.act(torch.zeros(1, algorithm.observation_dim), [generator]))
        self._all_draws = recorded.draws()
        self.draws = list(self._all_draws)
        for tensor in (*algorithm.parameters(), *algorithm.buffers()):
            if id(tensor) not in used:  # networks that are only trained need no room in the file
                tensor.data = tensor.new_empty(0)

    def leave_out(self, names: Sequence[str]) -> None:
        """Take draws that change nothing out of the inputs."""
        self.draws = [draw for draw in self.draws if draw.name not in names]

    def forward(self, observation: Tensor, noise: list[Tensor]) -> dict[str, Tensor]:
        """Return the action, and the candidates with their scores where there are some, in the environment's units.

        Args:
            observation: Observations as the environment gives them, shape (batch, observation_dim).
            noise: One tensor per draw, (batch, ...).
        """
        given = dict(zip([draw.name for draw in self.draws], noise, strict=True))
        rows = observation.shape[0]
        values = [
            given[draw.name] if draw.name in given else observation.new_full((rows, *draw.shape), UNUSED[draw.kind])
            for draw in self._all_draws
        ]
        with GivenDraws(values, self.dynamic) as answers:
            outputs = {"action": self.algorithm.act(observation, [answers.generator])}
        if self.chooser is not None and self.chooser.candidates is not None and self.chooser.scores is not None:
            outputs["candidates"] = self.algorithm.action_scaler(self.chooser.candidates)
            outputs["scores"] = self.chooser.scores
        return outputs

    def inputs(self, rows: int) -> tuple[Tensor, list[Tensor]]:
        """Return arguments of :meth:`forward` for some rows."""
        width = self.algorithm.observation_dim
        return torch.zeros(rows, width), [torch.full((rows, *draw.shape), UNUSED[draw.kind]) for draw in self.draws]


class _Used(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.ids = set[int]()

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        self.ids |= {id(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        return func(*args, **kwargs)


def _used(act: Any) -> set[int]:
    """Return the identities of all tensors that functions were called with."""
    mode = _Used()
    with mode:
        act()
    return mode.ids


def traced(decision: Decision) -> torch.export.ExportedProgram:
    """Return a decision as a graph; draws that change nothing are left out of its inputs.

    Raises:
        UserError: If the algorithm does what no graph holds.
    """
    program = _trace(decision)
    needed = _needed(program.graph)
    names = program.graph_signature.user_inputs[1:]
    unused = [draw.name for draw, name in zip(decision.draws, names, strict=True) if name not in needed]
    if not unused:
        return program
    decision.leave_out(unused)
    return _trace(decision)


def _needed(graph: torch.fx.Graph) -> set[str]:
    """Return the names of all nodes that the output depends on; what only checks its inputs is none of them."""
    waiting, found = [node for node in graph.nodes if node.op == "output"], set()
    while waiting:
        node = waiting.pop()
        if node.name not in found:
            found.add(node.name)
            waiting += node.all_input_nodes
    return found


def _trace(decision: Decision) -> torch.export.ExportedProgram:
    shapes: Any = None
    if decision.dynamic:
        batch = torch.export.Dim("batch")
        shapes = {"observation": {0: batch}, "noise": [{0: batch} for _ in decision.draws]}
    try:
        with torch.no_grad():  # two rows stand for any number: one would be taken for a constant
            return torch.export.export(decision, decision.inputs(2 if decision.dynamic else 1), dynamic_shapes=shapes)
    except UserError:
        raise
    except Exception as error:  # the tracer raises many types
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(
            f"{type(decision.algorithm).__name__} cannot be traced into one graph ({reason}): choose may not depend on the "
            "numbers in its tensors" + ("; without --dynamic-batch it may work" if decision.dynamic else "")
        ) from error
