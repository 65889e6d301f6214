"""A whole decision as one function of tensors: normaliser, policy, candidates, choice, action scale."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from edp_lightning.algorithms.offline_algorithm import OfflineAlgorithm
from edp_lightning.errors import UserError
from edp_lightning.export.draws import Draw, GivenDraws, RecordedDraws
from edp_lightning.policies.memory import ActsFromMemory, Memory
from edp_lightning.policies.shared_observation import SharedObservation

UNUSED = {"normal": 0.0, "uniform": 0.5}
"""Law of a draw -> what stands in the graph for one that changes nothing."""

MOST_ROWS = 1 << 20
"""Most rows of a file for any number of them; without a bound PyTorch 2.7 finds that its largest integer is excepted."""


class Decision(nn.Module):
    """What ``act`` of an algorithm computes, with its random numbers as inputs; or one step of :class:`ActsFromMemory`.

    Args:
        algorithm: A trained algorithm on the CPU, for this alone: its chooser is replaced, networks that do not act emptied.
        dynamic: Whether there may be any number of rows; otherwise there is one.

    Attributes:
        draws: The random numbers that it takes.
        memory: What is remembered before an episode, (1, ...); empty where nothing is.

    Raises:
        UserError: If the algorithm remembers its episodes and does not say what.
    """

    def __init__(self, algorithm: OfflineAlgorithm, dynamic: bool) -> None:
        super().__init__()
        self.memory: Memory = {}
        if type(algorithm).reset is not OfflineAlgorithm.reset:
            if not isinstance(algorithm, ActsFromMemory):
                raise UserError(
                    f"{type(algorithm).__name__} remembers its episode in its own way: write initial_memory, act_from_memory "
                    "and longest_episode (edp_lightning.policies.memory), or use load_policy in the program that acts"
                )
            self.memory = algorithm.initial_memory()
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

    @property
    def extras(self) -> list[Draw]:
        """The inputs beside the observation: random numbers, or the last reward and what is remembered."""
        if not self.memory:
            return self.draws
        remembered = [Draw(name, "memory", tuple(value.shape[1:])) for name, value in self.memory.items()]
        return [Draw("reward", "reward", (1,)), *remembered]

    @property
    def output_names(self) -> list[str]:
        """Names of what :meth:`forward` returns, once it was called or traced."""
        considered = [] if self.chooser is None or self.chooser.scores is None else ["candidates", "scores"]
        return ["action", *considered, *(f"next_{name}" for name in self.memory)]

    def leave_out(self, names: Sequence[str]) -> None:
        """Take draws that change nothing out of the inputs."""
        self.draws = [draw for draw in self.draws if draw.name not in names]

    def forward(self, observation: Tensor, extras: list[Tensor]) -> dict[str, Tensor]:
        """Return the action, the candidates with their scores where there are some, and what is remembered after it.

        Actions are in the environment's units.

        Args:
            observation: Observations as the environment gives them, shape (batch, observation_dim).
            extras: One tensor for each of ``extras``, (batch, ...).
        """
        given = dict(zip([extra.name for extra in self.extras], extras, strict=True))
        if self.memory:
            assert isinstance(self.algorithm, ActsFromMemory)
            action, after = self.algorithm.act_from_memory(observation, given.pop("reward"), given)
            return {"action": action} | {f"next_{name}": value for name, value in after.items()}
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
        return torch.zeros(rows, width), [torch.full((rows, *x.shape), UNUSED.get(x.kind, 0.0)) for x in self.extras]


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
    if decision.memory:
        return program
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
        batch = torch.export.Dim("batch", max=MOST_ROWS)
        shapes = {"observation": {0: batch}, "extras": [{0: batch} for _ in decision.extras]}
    try:
        with torch.no_grad():  # two rows stand for any number: one would be taken for a constant
            example = decision.inputs(2 if decision.dynamic else 1)
            return torch.export.export(decision, example, dynamic_shapes=shapes, strict=False)
    except UserError:
        raise
    except Exception as error:  # the tracer raises many types
        reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise UserError(
            f"{type(decision.algorithm).__name__} cannot be traced into one graph ({reason}): choose may not depend on the "
            "numbers in its tensors" + ("; without --dynamic-batch it may work" if decision.dynamic else "")
        ) from error
