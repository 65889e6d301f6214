"""Does an exported file that remembers play episodes as the package does? Asked before it is written."""

import numpy as np
import torch

from edp_lightning.algorithms.offline_algorithm import OfflineAlgorithm
from edp_lightning.export.check import (
    Check,
    Decided,
    Floats,
    Run,
    difference_of,
    random_observations,
    refuse_difference,
    tolerance_of,
)
from edp_lightning.export.decision import Decision
from edp_lightning.policies.memory import ActsFromMemory
from edp_lightning.runs.rng import stream_seed

EPISODES = 4
"""Episodes of a check; beside each other where a file takes several rows."""

BEYOND = 5
"""Steps that are played after the memory is full."""


def check_episodes(run: Run, algorithm: OfflineAlgorithm, decision: Decision) -> tuple[Check, Decided]:
    """Play episodes of random observations and rewards with a file, handing on its memory, and with the algorithm.

    Args:
        run: Runs the file.
        algorithm: The algorithm as it was loaded; the file was made from another copy.
        decision: What was written.

    Returns:
        What was found, and a step with a full memory.

    Raises:
        UserError: If they differ by more than the tolerance.
    """
    assert isinstance(algorithm, ActsFromMemory)
    rows = EPISODES if decision.dynamic else 1
    steps = min(algorithm.longest_episode, max(value.shape[1] for value in decision.memory.values()) + BEYOND)
    largest = 0.0
    for start in range(0, EPISODES, rows):
        names = range(start, start + rows)
        for name in names:
            algorithm.reset(name)
        memory: dict[str, Floats] = {n: v.expand(rows, *v.shape[1:]).numpy() for n, v in decision.memory.items()}
        for step in range(steps):
            random = torch.Generator().manual_seed(stream_seed(start, "step", step))
            observation = random_observations(algorithm, rows, random, step)
            reward = torch.randn(rows, 1, generator=random)
            action = algorithm.act(observation, [random] * rows, names, reward.squeeze(1).tolist()).numpy()
            inputs = {"observation": observation.numpy(), "reward": reward.numpy(), **memory}
            outputs = run(inputs)
            difference = float(difference_of(algorithm, outputs["action"], action).max())
            largest = max(largest, refuse_difference(difference, rows, tolerance_of(algorithm)))
            memory = {name: np.array(outputs[f"next_{name}"]) for name in memory}
    example = Decided({name: value[:1] for name, value in inputs.items()}, action[:1])
    return Check(EPISODES * steps, largest, 0), example
