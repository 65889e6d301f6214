"""What a transition is, and the rules that turn an episode into transitions. Nothing in one comes from another episode."""

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Floats = NDArray[np.float32]
Terminals = Literal["env", "reward", "first_success"]


class Batch(NamedTuple):
    """Rows of the table.

    Attributes:
        observation: s, shape (batch, observation_dim), as the environment gives it.
        action: a in [-1, 1], shape (batch, action_dim); of a chunk, its steps one after the other.
        reward: Transformed (n-step) reward, shape (batch,).
        next_observation: s' after ``steps`` steps, shape (batch, observation_dim).
        terminated: 1.0 where the task truly ended on the way to s', shape (batch,).
        steps: Number of environment steps k from s to s', shape (batch,); bootstrapping uses discount**k.
    """

    observation: Tensor
    action: Tensor
    reward: Tensor
    next_observation: Tensor
    terminated: Tensor
    steps: Tensor


class SuccessorBatch(NamedTuple):
    """A :class:`Batch` with the action that the data take in s'.

    Attributes:
        observation: As in ``Batch``.
        action: As in ``Batch``.
        reward: As in ``Batch``.
        next_observation: As in ``Batch``.
        terminated: As in ``Batch``.
        steps: As in ``Batch``.
        next_action: a' in [-1, 1], shape (batch, action_dim); zeros where the data do not go on after s'.
        next_action_known: 1.0 where they do, else 0.0, shape (batch,).
    """

    observation: Tensor
    action: Tensor
    reward: Tensor
    next_observation: Tensor
    terminated: Tensor
    steps: Tensor
    next_action: Tensor
    next_action_known: Tensor


class WindowBatch(NamedTuple):
    """Windows of K neighbouring steps; one that its trajectory's end cuts short is padded with zeros behind it.

    Attributes:
        observation: s, shape (batch, K, observation_dim), as the environment gives it.
        action: a in [-1, 1], shape (batch, K, action_dim).
        return_to_go: Undiscounted sum of the rewards from this step to the end of its trajectory, shape (batch, K).
        timestep: Number of the step in its trajectory, from 0 on, long, shape (batch, K).
        mask: 1.0 for steps, 0.0 for padding, shape (batch, K).
    """

    observation: Tensor
    action: Tensor
    return_to_go: Tensor
    timestep: Tensor
    mask: Tensor


AnyBatch = Batch | SuccessorBatch | WindowBatch
"""What a loader may serve; an algorithm says what it learns from."""


@dataclass(frozen=True)
class Episode:
    """One episode of T steps.

    Attributes:
        observation: Shape (T + 1, observation_dim), float32, through the view.
        action: Shape (T, action_dim), float32, in the environment's units.
        reward: Shape (T,), float32.
        terminated: Shape (T,), bool.
        truncated: Shape (T,), bool.
        position: Achieved goal, shape (T + 1, 2), where the environment has one.
        part: Number of the source in a mixture of several.
        changes: Per column, how often the stored observations change from step to step, and how many of these changes float32
            does not show, shape (2, observation_dim); None where float32 shows all. May stand for several episodes.
        left_out: Recorded steps after these T that cannot be used, since what they led to was not recorded.
    """

    observation: Floats
    action: Floats
    reward: Floats
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    position: Floats | None = None
    part: int = 0
    changes: NDArray[np.int64] | None = None
    left_out: int = 0

    def __len__(self) -> int:
        """Return T."""
        return len(self.reward)


def relabel(episode: Episode, goal: tuple[float, float], radius: float) -> Episode:
    """Return the episode with reward 1 wherever a step ends within ``radius`` of ``goal``, else 0, and no terminations."""
    assert episode.position is not None
    reached = np.linalg.norm(episode.position[1:] - np.asarray(goal, dtype=np.float32), axis=1) <= radius
    return replace(episode, reward=reached.astype(np.float32), terminated=np.zeros_like(episode.terminated))


def apply_terminals(episode: Episode, terminals: Terminals) -> Episode:
    """Return the episode with its terminations decided.

    Args:
        episode: The episode.
        terminals: ``env``: as stored; ``reward``: every step with a positive reward is terminal, and the rows after it
            stay (the table of D4RL's AntMaze); ``first_success``: the episode is cut after its first positive reward, which
            is terminal.
    """
    if terminals == "env":
        return episode
    rewarded = episode.reward > 0
    if terminals == "reward":
        return replace(episode, terminated=rewarded)
    steps = int(np.argmax(rewarded)) + 1 if rewarded.any() else len(episode)
    return replace(
        episode,
        observation=episode.observation[: steps + 1],
        action=episode.action[:steps],
        reward=episode.reward[:steps],
        terminated=rewarded[:steps],
        truncated=episode.truncated[:steps] & ~rewarded[:steps],
        position=None if episode.position is None else episode.position[: steps + 1],
    )


def n_step_rows(
    reward: Floats, terminated: NDArray[np.bool_], last: NDArray[np.int64], n_step: int, discount: float
) -> tuple[Floats, NDArray[np.bool_], NDArray[np.int64]]:
    """Return discounted reward sums, terminations and true lengths k of n-step transitions.

    A row's window ends after ``n_step`` steps, at a termination, or at the end of its episode, whichever comes first.

    Args:
        reward: Shape (rows,).
        terminated: Shape (rows,).
        last: Last row of each row's episode, shape (rows,).
        n_step: Largest k.
        discount: Discount per step.
    """
    if n_step == 1:
        return reward.astype(np.float32), terminated, np.ones(len(reward), dtype=np.int64)
    rows = np.arange(len(reward))
    total = np.zeros(len(reward), dtype=np.float64)
    ended = np.zeros(len(reward), dtype=np.bool_)
    length = np.zeros(len(reward), dtype=np.int64)
    alive = np.ones(len(reward), dtype=np.bool_)
    for k in range(n_step):
        alive &= rows + k <= last
        at = np.minimum(rows + k, last)
        total += np.where(alive, discount**k * reward[at], 0.0)
        length += alive
        ended |= alive & terminated[at]
        alive &= ~terminated[at]
    return total.astype(np.float32), ended, length


def usable_rows(terminated: NDArray[np.bool_], length: NDArray[np.int64], chunk: int) -> NDArray[np.bool_]:
    """Return which rows of ``n_step_rows`` have a whole chunk of actions: their window is as long, or the task ends in it.

    Args:
        terminated: Whether each row's window ends with a termination, shape (rows,).
        length: Steps of each row's window, shape (rows,).
        chunk: Actions per row, at most ``n_step``.
    """
    return (length >= chunk) | terminated


def chunk_actions(action: Floats, chunk: int) -> Floats:
    """Return each step's action and those of the steps after it, shape (T, chunk * action_dim).

    Beyond the end of the episode its last action is repeated. That matters only to rows that are not usable, and to those where
    the task has ended before.

    Args:
        action: Actions of one episode, shape (T, action_dim).
        chunk: Actions per row.
    """
    if chunk == 1:
        return action
    steps = len(action)
    at = np.minimum(np.arange(steps)[:, None] + np.arange(chunk), steps - 1)
    chunks: Floats = action[at].reshape(steps, -1)
    return chunks
