"""The random numbers of a decision, as tensors: taken down from one that was made, or handed to one that is being traced.

An algorithm draws with ``torch.randn`` and ``torch.rand`` from one generator per row of a batch. That is all that is known
about it here, so whatever ``choose`` an algorithm has can be exported.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from edp_lightning.errors import UserError

KINDS: dict[Any, str] = {torch.randn: "normal", torch.rand: "uniform"}
"""Function that draws -> the law of its numbers: N(0, 1), or U(0, 1)."""


class Draw(NamedTuple):
    """One draw of a decision, or another input that a file takes beside the observation.

    Attributes:
        name: Its name as an input of the exported file.
        kind: ``normal`` or ``uniform``; or ``reward``, ``memory``.
        shape: Shape per row of a batch.
    """

    name: str
    kind: str
    shape: tuple[int, ...]


class RecordedDraws(TorchFunctionMode):
    """Takes down what is drawn from some generators, in the order of their draws.

    Args:
        generators: One per row.

    Raises:
        UserError: From what draws with another function of these generators.
    """

    def __init__(self, generators: Sequence[torch.Generator]) -> None:
        super().__init__()
        self._rows: dict[int, list[tuple[str, Tensor]]] = {id(generator): [] for generator in generators}

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        row = self._rows.get(id(kwargs.get("generator")))
        if row is not None:
            if func not in KINDS:
                raise UserError(
                    f"this algorithm draws with {getattr(func, '__name__', func)}, which an exported file has no input for: "
                    "use torch.randn and torch.rand in choose"
                )
            row.append((KINDS[func], result))
        return result

    def draws(self) -> list[Draw]:
        """Return what was drawn for each row, named by its law, and numbered where several have the same."""
        first = next(iter(self._rows.values()))
        kinds = [kind for kind, _ in first]
        names = [kind if kinds.count(kind) == 1 else f"{kind}_{kinds[:i].count(kind)}" for i, kind in enumerate(kinds)]
        return [Draw(name, kind, tuple(draw.shape)) for name, (kind, draw) in zip(names, first, strict=True)]

    def values(self) -> list[Tensor]:
        """Return the numbers of each draw, (rows, ...)."""
        return [torch.stack([draw for _, draw in row]) for row in zip(*self._rows.values(), strict=True)]


class _EveryRow:
    """Stands for one row's draw while all rows are meant: stacking it with its like gives the rows an axis."""

    def __init__(self, value: Tensor) -> None:
        self.value = value

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        if func is not torch.stack:
            raise UserError(
                f"this algorithm uses a row's random numbers by themselves ({getattr(func, '__name__', func)}), so it can only "
                "be exported without --dynamic-batch"
            )
        dim = (kwargs or {}).get("dim", args[1] if len(args) > 1 else 0)
        return args[0][0].value.movedim(0, dim)


class GivenDraws(TorchFunctionMode):
    """Answers draws from a generator with given numbers.

    Args:
        values: One tensor per draw, in their order, (rows, ...).
        dynamic: Whether there may be any number of rows; otherwise there is one.
    """

    def __init__(self, values: Sequence[Tensor], dynamic: bool) -> None:
        super().__init__()
        self.generator = torch.Generator()
        self._values = iter(values)
        self._answer: Callable[[Tensor], Any] = _EveryRow if dynamic else lambda value: value[0]

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("generator") is self.generator:
            return self._answer(next(self._values))
        return func(*args, **kwargs)
