"""Environments that are stepped together: in this process, or shared out over processes of their own. Knows no torch."""

import atexit
import multiprocessing
import signal
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edp_lightning.environments.answers import PROGRESS, REWARDS, observation_of, reset_of, step_of, success_of
from edp_lightning.runs.processes import check_script_is_guarded
from edp_lightning.runs.stop_signals import signals_kept_from_children

if TYPE_CHECKING:
    import gymnasium as gym

Floats = NDArray[np.float32]
Command = int | Floats
"""Seed of a new episode, or the next action (or chunk of actions)."""


@dataclass(frozen=True)
class Answer:
    """What an environment said to a command.

    Attributes:
        observation: The observation, shape (observation_dim,).
        rewards: Reward of each step that was played: none after a reset, one, or several for a chunk of actions.
        done: Whether the episode is over.
        success: ``info["success"]``, if that is true or false.
        progress: Numbers that this package's own wrappers report.
        terminated: Whether the task truly ended with this step; an episode that is done without was cut.
    """

    observation: Floats
    rewards: tuple[float, ...] = ()
    done: bool = False
    success: bool | None = None
    progress: Mapping[str, float] = field(default_factory=dict)
    terminated: bool = False


class Environments(Protocol):
    """Numbered environments."""

    def __len__(self) -> int:
        """Return how many there are."""

    def advance(self, commands: Mapping[int, Command]) -> dict[int, Answer]:
        """Reset or step some environments; return the answers by number."""

    def close(self, patience: float = 10.0) -> None:
        """Release them.

        Args:
            patience: Seconds that processes of theirs have to end by themselves.
        """


def _advance(env: "gym.Env[Any, Any]", command: Command) -> Answer:
    if isinstance(command, int):
        return Answer(observation_of(reset_of(env.reset(seed=command))))
    observation, reward, terminated, truncated, info = step_of(env.step(command))
    rewards = tuple(info.get(REWARDS, (reward,)))
    progress = dict(info.get(PROGRESS, {}))
    return Answer(observation_of(observation), rewards, terminated or truncated, success_of(info), progress, terminated)


class LocalEnvironments:
    """Environments in this process.

    Args:
        envs: The environments; their observations are flat float32 boxes.
    """

    def __init__(self, envs: "Sequence[gym.Env[Any, Any]]") -> None:
        self._envs = envs

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._envs)

    def advance(self, commands: Mapping[int, Command]) -> dict[int, Answer]:
        """Reset or step some environments, one after the other."""
        return {index: _advance(self._envs[index], command) for index, command in commands.items()}

    def close(self, patience: float = 10.0) -> None:
        """Close the environments; there is nothing to wait for."""
        _close_all(self._envs)


class WorkerEnvironments:
    """Environments in processes that live until :meth:`close`; number i is in process i modulo their number.

    Args:
        make: Returns a fresh environment; picklable.
        count: Number of environments.
        num_workers: Number of processes.
    """

    def __init__(self, make: "Callable[[], gym.Env[Any, Any]]", count: int, num_workers: int) -> None:
        check_script_is_guarded()
        context = multiprocessing.get_context("spawn")  # a fork would copy the locks of threads that it does not copy
        self._count = count
        self._pipes, self._processes = [], []
        for _ in range(num_workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(make, theirs), daemon=True)
            # Ctrl-C and a batch system's SIGTERM go to all processes: the run decides on them.
            with signals_kept_from_children():
                process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        atexit.register(self.close, 0.1)  # before multiprocessing waits for processes that hear no SIGTERM

    def __len__(self) -> int:
        """Return how many there are."""
        return self._count

    def advance(self, commands: Mapping[int, Command]) -> dict[int, Answer]:
        """Reset or step some environments, all processes at the same time.

        Raises:
            RuntimeError: With the traceback, if an environment fails; or if a process died.
        """
        shares: dict[int, dict[int, Command]] = {}
        for index, command in commands.items():
            shares.setdefault(index % len(self._pipes), {})[index] = command
        answers: dict[int, Answer] = {}
        try:
            for worker, share in shares.items():
                self._pipes[worker].send(share)
            for worker in shares:
                answer = self._pipes[worker].recv()
                if isinstance(answer, str):
                    raise RuntimeError(f"an environment failed in its process:\n{answer}")
                answers.update(answer)
        except (EOFError, OSError) as error:
            raise RuntimeError("a process with environments died; less evaluation.num_envs needs less memory") from error
        return answers

    def close(self, patience: float = 10.0) -> None:
        """End the processes; those that take longer than ``patience`` seconds, all together, are killed."""
        atexit.unregister(self.close)
        for pipe in self._pipes:
            pipe.close()
        deadline = time.monotonic() + patience
        for process in self._processes:
            process.join(timeout=max(0.0, deadline - time.monotonic()))
            if process.is_alive():
                process.kill()
                process.join()


def _serve(make: "Callable[[], gym.Env[Any, Any]]", pipe: Any) -> None:
    """Answer commands until the other end is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # for systems on which children cannot be kept from it
    with _closing_all() as envs, suppress(EOFError, OSError):
        while True:
            commands = pipe.recv()
            pipe.send(_answer(envs, make, commands))


def _answer(
    envs: "dict[int, gym.Env[Any, Any]]", make: "Callable[[], gym.Env[Any, Any]]", commands: Mapping[int, Command]
) -> dict[int, Answer] | str:
    """Return the answers, or the traceback of what went wrong; environments are made when they are first spoken to."""
    try:
        for index in commands:
            if index not in envs:
                envs[index] = make()
        return {index: _advance(envs[index], command) for index, command in commands.items()}
    except Exception:  # an environment may raise anything
        return traceback.format_exc()


@contextmanager
def _closing_all() -> "Iterator[dict[int, gym.Env[Any, Any]]]":
    envs: dict[int, gym.Env[Any, Any]] = {}
    try:
        yield envs
    finally:
        _close_all(envs.values())


def _close_all(envs: "Iterable[gym.Env[Any, Any]]") -> None:
    """Close environments; one that fails at that has done its work."""
    for env in envs:
        try:
            env.close()
        except Exception as error:  # an environment may raise anything
            warnings.warn(f"an environment failed when it was closed: {error!r}", stacklevel=2)
