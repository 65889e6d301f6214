"""Chooses expert, medium and replay policies among the snapshots of a training, by what they do in the exact physics."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edp_lightning.collect.locomotion_policies import ROLES, LocomotionPolicy
from edp_lightning.collect.locomotion_recorder import record_policy
from edp_lightning.collect.physics.locomotion import Locomotion, Robot
from edp_lightning.collect.training.snapshots import Arrays, read_arrays, snapshot_files
from edp_lightning.errors import UserError

MEDIUM_SHARE = 0.42
"""Of the expert's return: between a third and a half."""
EXPERT_CANDIDATES = 8
REPLAY_POLICIES = len(ROLES) - 2


@dataclass(frozen=True)
class Judged:
    """A snapshot and its undiscounted returns in the exact physics, with actions drawn as for data.

    Attributes:
        number: Its place among the snapshots.
        steps: Training steps before it.
        mean: Mean return.
        deviation: Standard deviation of the returns.
    """

    number: int
    steps: int
    mean: float
    deviation: float


def judge(locomotion: Locomotion, arrays: Arrays, number: int, episodes: int) -> Judged:
    """Play ``episodes`` episodes of a snapshot."""
    stream = record_policy(locomotion, LocomotionPolicy(arrays), [0, number], 0.0, episodes * locomotion.robot.horizon)
    returns = [float(next(stream).rewards.sum()) for _ in range(episodes)]
    stream.close()
    return Judged(number, int(arrays["steps"]), float(np.mean(returns)), float(np.std(returns)))


def choose_policies(
    robot: Robot, folder: Path, episodes: int = 20, report: Callable[[str], None] = print
) -> tuple[Arrays, dict[str, Judged]]:
    """Return the policies in the order of ``ROLES``, stacked by name, and the two chosen ones judged.

    The expert is the best of the snapshots whose training returns were highest. Medium is the snapshot nearest to 0.42 of its
    return where training first came there. Replay: twenty snapshots equally far apart from the first one to medium.

    Args:
        robot: The robot.
        folder: The snapshots.
        episodes: Episodes per snapshot that is judged.
        report: Takes lines of progress.

    Raises:
        UserError: If training was too short for twenty different snapshots up to medium, or learned too fast or too little.
    """
    stored = [read_arrays(path) for path in snapshot_files(folder)]
    if len(stored) <= REPLAY_POLICIES:
        raise UserError(
            f"{folder} has too few snapshots ({len(stored)}) for {REPLAY_POLICIES} different ones up to a medium policy: "
            "run the same command with more --minutes"
        )
    training = np.array([float(arrays["episode_return"]) for arrays in stored])
    locomotion = Locomotion(robot)
    try:
        best = [int(i) for i in np.argsort(np.nan_to_num(training, nan=-np.inf))[::-1][:EXPERT_CANDIDATES]]
        expert = max(_judged(locomotion, stored, best, episodes, "expert", report), key=lambda judged: judged.mean)
        target = MEDIUM_SHARE * expert.mean
        near = _medium_candidates(training, expert, target, folder)
        medium = min(
            _judged(locomotion, stored, near, episodes, "medium", report), key=lambda judged: abs(judged.mean - target)
        )
    finally:
        locomotion.close()
    replay = np.round(np.linspace(0, medium.number, REPLAY_POLICIES)).astype(int)
    chosen = [stored[number] for number in (expert.number, medium.number, *replay)]
    return {name: np.stack([arrays[name] for arrays in chosen]) for name in chosen[0]}, {"expert": expert, "medium": medium}


def _medium_candidates(training: NDArray[np.float64], expert: Judged, target: float, folder: Path) -> range:
    """Return the numbers of the snapshots around the first one whose return in training came to ``target``.

    Raises:
        UserError: If none did, or there are not twenty different ones up to there.
    """
    reached = training >= target
    if not reached.any():
        raise UserError(
            f"no return in the training of {folder} comes to {target:.0f}, {MEDIUM_SHARE} of what its best policy reaches in "
            "the exact physics: run the same command with more --minutes, or train with another --seed and --output"
        )
    first = int(np.argmax(reached))
    # Training's return is the mean of the last hundred episodes: it lags behind.
    near = range(max(REPLAY_POLICIES - 1, first - 8), min(expert.number, first + 5))
    if not near:
        raise UserError(
            f"the training of {folder} came to {MEDIUM_SHARE} of its best policy's return at snapshot {first}, and to that "
            f"policy at snapshot {expert.number}, too early for {REPLAY_POLICIES} different ones up to a medium policy: run "
            "the same command with more --minutes, for a better expert, or train with another --seed and --output"
        )
    return near


def _judged(
    locomotion: Locomotion,
    stored: Sequence[Arrays],
    numbers: Sequence[int],
    episodes: int,
    role: str,
    report: Callable[[str], None],
) -> list[Judged]:
    found = []
    for number in numbers:
        found.append(judge(locomotion, stored[number], number, episodes))
        report(f"{role}? snapshot at {found[-1].steps} steps: return {found[-1].mean:.0f} +- {found[-1].deviation:.0f}")
    return found
