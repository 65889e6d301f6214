"""Does an exported file decide as the package does? Asked with random observations and random numbers before it is written."""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edp_lightning.algorithms.offline_algorithm import OfflineAlgorithm
from edp_lightning.errors import UserError
from edp_lightning.export.draws import Draw, RecordedDraws
from edp_lightning.policies.acting import Choice
from edp_lightning.policies.diffusion import preferences
from edp_lightning.runs.rng import stream_seed

Floats = NDArray[np.float32]
Run = Callable[[Mapping[str, Floats]], dict[str, Floats]]
"""Inputs by name -> outputs by name, as the exported file computes them."""

TOLERANCE = 1e-5
"""Largest difference of actions, in units in which the action's bounds are -1 and 1."""

UNCLIPPED_TOLERANCE = 1e-3
"""The same for a diffusion whose one-step predictions are not clipped: they divide by what is left of the action at time T, a
thousandth with the cosine schedule, and rounding with them."""

NEAR_TIE = 1e-4
"""Largest difference, relative to the largest score, of two candidates of which either may be taken: rounding decides."""

DECISIONS = 64
"""Random decisions of a check."""

EXAMPLE_SEED = 1000


class Check(NamedTuple):
    """What a check found.

    Attributes:
        decisions: Random decisions that were compared.
        largest_difference: Of their actions, in units in which the bounds are -1 and 1; near ties do not count.
        near_ties: Decisions in which rounding chose among candidates of the same value.
    """

    decisions: int
    largest_difference: float
    near_ties: int


class Decided(NamedTuple):
    """Decisions that the package made.

    Attributes:
        inputs: Observations and random numbers by name.
        action: In the environment's units, shape (rows, action_dim).
    """

    inputs: dict[str, Floats]
    action: Floats


def decide(algorithm: OfflineAlgorithm, draws: list[Draw], rows: int, seed: int) -> Decided:
    """Let an algorithm act on :func:`random_observations`.

    Args:
        algorithm: The algorithm as it was loaded.
        draws: Its random numbers that are inputs of the file.
        rows: Number of observations.
        seed: Seed of observations and random numbers.
    """
    generator = torch.Generator().manual_seed(stream_seed(seed, "observations", rows))
    observation = random_observations(algorithm, rows, generator, seed)
    generators = [torch.Generator().manual_seed(stream_seed(seed, "decision", row)) for row in range(rows)]
    with RecordedDraws(generators) as recorded:
        action = algorithm.act(observation, generators)
    values = dict(zip([draw.name for draw in recorded.draws()], recorded.values(), strict=True))
    inputs = {"observation": observation} | {draw.name: values[draw.name] for draw in draws}
    return Decided({name: value.numpy() for name, value in inputs.items()}, action.numpy())


def random_observations(algorithm: OfflineAlgorithm, rows: int, generator: torch.Generator, first: int) -> Tensor:
    """Return observations (rows, observation_dim): as far off the mean as the data, every fourth five times as far.

    Args:
        algorithm: Knows the data's mean and spread.
        rows: Number of observations.
        generator: Draws them.
        first: Number of the first row; those one below a multiple of four are the far ones.
    """
    spread = torch.randn(rows, algorithm.observation_dim, generator=generator)
    spread = spread * torch.where(torch.arange(first, first + rows) % 4 == 3, 5.0, 1.0).unsqueeze(-1)
    return algorithm.normalizer.mean + algorithm.normalizer.std * spread


def difference_of(algorithm: OfflineAlgorithm, actions: Floats, expected: Floats) -> Floats:
    """Return the largest difference of each row, (rows,), in units in which the action's bounds are -1 and 1."""
    largest: Floats = (np.abs(actions - expected) / _half(algorithm)).max(axis=-1)
    return largest


def _half(algorithm: OfflineAlgorithm) -> Floats:
    """Return half of the width of the action's bounds, (action_dim,)."""
    half: Floats = np.maximum((algorithm.action_scaler.high - algorithm.action_scaler.low).numpy() / 2, 1e-12)
    return half


def tolerance_of(algorithm: OfflineAlgorithm) -> float:
    """Return the largest difference of actions that rounding explains."""
    return TOLERANCE if algorithm.hparams.get("clip_start", True) else UNCLIPPED_TOLERANCE


def refuse_difference(difference: float, rows: int, tolerance: float) -> float:
    """Return a difference of actions if it is allowed.

    Raises:
        UserError: If it is larger than ``tolerance``.
    """
    if not difference <= tolerance:
        raise UserError(
            f"nothing is written: in a batch of {rows}, the exported policy's action is {difference:.1e} off the package's "
            f"(allowed: {tolerance:.0e}): the exported form lacks something that this policy has, or the versions of torch and "
            "onnxruntime do not fit together. Report it with the output of edp_lightning info"
        )
    return difference


def check(run: Run, algorithm: OfflineAlgorithm, draws: list[Draw], choice: Choice | None, dynamic: bool) -> Check:
    """Compare a file's decisions with the algorithm's.

    Args:
        run: Runs the file.
        algorithm: The algorithm as it was loaded; the file was made from another copy.
        draws: Random numbers that are inputs of the file.
        choice: How it chooses among candidates, if it does.
        dynamic: Whether the file takes any number of rows; they are asked for in batches of 1, 2, 7 and more.

    Raises:
        UserError: If they differ by more than :func:`tolerance_of` allows where there is no near tie.
    """
    sizes = [1, 2, 7, DECISIONS - 10] if dynamic else [1] * DECISIONS
    half, tolerance = _half(algorithm), tolerance_of(algorithm)
    largest, ties = 0.0, 0
    for index, rows in enumerate(sizes):
        decided = decide(algorithm, draws, rows, index)
        outputs = run(decided.inputs)
        differences = difference_of(algorithm, outputs["action"], decided.action)
        for row, difference in enumerate(differences.tolist()):
            if difference <= tolerance:
                largest = max(largest, difference)
                continue
            numbers = {name: value[row] for name, value in (decided.inputs | outputs).items()}
            if choice is None or not near_tie(numbers, decided.action[row], half, choice, tolerance):
                refuse_difference(difference, rows, tolerance)
            ties += 1
    return Check(sum(sizes), largest, ties)


def example_of(run: Run, algorithm: OfflineAlgorithm, draws: list[Draw]) -> Decided:
    """Return a decision to be stored beside the file: the first random one that is no near tie, so that it can be repeated."""
    for seed in range(EXAMPLE_SEED, EXAMPLE_SEED + DECISIONS):
        example = decide(algorithm, draws, 1, seed)
        if difference_of(algorithm, run(example.inputs)["action"], example.action).max() <= tolerance_of(algorithm):
            return example
    raise UserError("nothing is written: every random decision is a near tie, as if all candidates were worth the same")


def near_tie(row: Mapping[str, Floats], expected: Floats, half: Floats, choice: Choice, tolerance: float) -> bool:
    """Return whether the file took one of two candidates that are worth the same, and the package the other.

    Args:
        row: Inputs and outputs of the file for one decision, without the axis of rows.
        expected: The package's action, shape (action_dim,).
        half: Half of the width of the action's bounds, shape (action_dim,).
        choice: How one is chosen.
        tolerance: Largest difference that rounding explains.
    """
    uniform: Tensor = torch.from_numpy(row.get("uniform", np.full_like(row["scores"], 0.5)))
    preference = preferences(torch.from_numpy(row["scores"]), choice.temperature, uniform).numpy()
    taken = row["candidates"][preference.argmax()]
    # what may be added to a candidate is the same in both
    distance = (np.abs(row["candidates"] - taken + row["action"] - expected) / half).max(axis=-1)
    theirs = int(distance.argmin())
    scale = max(1.0, float(np.abs(preference).max()))
    return bool(distance[theirs] <= tolerance and preference.max() - preference[theirs] <= NEAR_TIE * scale)
