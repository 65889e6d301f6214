"""Episodes played in a process of their own, with the policy of a checkpoint file, while training goes on."""

import multiprocessing
import traceback
from collections.abc import Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from edp_lightning.acceleration.precision import HiddenPrecision
from edp_lightning.algorithms.offline_algorithm import OfflineAlgorithm
from edp_lightning.environments.workers import LocalEnvironments
from edp_lightning.evaluation.rollout import EpisodeResult, rollout
from edp_lightning.runs.checkpoint_io import read_checkpoint
from edp_lightning.runs.stop_signals import signals_kept_from_children

if TYPE_CHECKING:  # the module is imported for --help, environments are not
    from edp_lightning.environments.recipe import EvaluationEnvironment


def restore_policy(
    policy: type[OfflineAlgorithm], checkpoint: Path | str, device: torch.device, precision: HiddenPrecision | None = None
) -> OfflineAlgorithm:
    """Return the policy of a checkpoint file on a device, ready to act.

    Args:
        policy: Its class.
        checkpoint: The file.
        device: Where it is to act.
        precision: Takes the place of the file's ``hidden_precision``.
    """
    options: dict[str, Any] = {} if precision is None else {"hidden_precision": precision}
    with device:  # so that whatever is chosen by the device is chosen by this one
        return policy.load_from_checkpoint(checkpoint, map_location=device, weights_only=True, **options).eval()


def usable(device: torch.device) -> bool:
    """Return whether this process can use a device: a GPU in exclusive mode belongs to one process."""
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError):  # the latter where torch was built without CUDA
        return False
    return True


class BackgroundRollout:
    """Starts the process. It has one thread, and ends with the episodes, or with this process.

    It plays on the device of the run if that can be shared, else on the CPU, in the precision that suits the CPU.

    Args:
        policy: Class of the policy.
        checkpoint: File with the policy; must stay until the episodes are played.
        environment: Recipe of the environment.
        seeds: Reset seed of each episode.
        num_envs: Environments that run side by side.
        record: Keep every step in ``EpisodeResult.trajectory``.
        device: Device of the run.
        target_returns: See ``rollout``.
    """

    def __init__(
        self,
        policy: type[OfflineAlgorithm],
        checkpoint: Path,
        environment: "EvaluationEnvironment",
        seeds: Sequence[int],
        num_envs: int,
        record: bool,
        device: torch.device,
        target_returns: Sequence[float | None] | None = None,
    ) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would copy the locks of threads that it does not copy
        self._pipe, theirs = context.Pipe(duplex=False)
        products = torch.get_float32_matmul_precision()
        played = list(seeds), num_envs, record
        arguments = (theirs, policy, str(checkpoint), environment, *played, device, products, target_returns)
        self._process = context.Process(target=_play, args=arguments, daemon=True)
        # A batch system's SIGTERM goes to all processes: the run decides on it, and this one must not lose its episodes.
        with signals_kept_from_children():
            self._process.start()
        theirs.close()

    def ready(self) -> bool:
        """Return whether :meth:`results` would return, or raise, at once."""
        return self._pipe.poll()

    def wait(self) -> None:
        """Wait until :meth:`ready`."""
        self._pipe.poll(None)

    def results(self) -> list[EpisodeResult]:
        """Wait for the episodes and return them in the order of their seeds.

        Raises:
            RuntimeError: With the traceback, if the rollouts failed; or if the process died.
        """
        try:
            answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            raise RuntimeError("the process of the background evaluation died") from error
        finally:
            self.stop()
        if isinstance(answer, str):
            raise RuntimeError(f"the background evaluation failed in its process:\n{answer}")
        results: list[EpisodeResult] = answer
        return results

    def stop(self) -> None:
        """End the process, whether or not it is done."""
        self._pipe.close()
        self._process.join(timeout=1)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _play(
    pipe: Connection,
    policy_class: type[OfflineAlgorithm],
    checkpoint: str,
    environment: "EvaluationEnvironment",
    seeds: list[int],
    num_envs: int,
    record: bool,
    device: torch.device,
    float32_products: str,
    target_returns: Sequence[float | None] | None = None,
) -> None:
    torch.set_num_threads(1)
    torch.set_float32_matmul_precision(float32_products)
    try:
        precision: HiddenPrecision | None = None
        if not usable(device):
            device = torch.device("cpu")
            if read_checkpoint(checkpoint)["hyper_parameters"].get("hidden_precision") == "bfloat16":
                precision = "auto"  # what was chosen for the GPU may take this CPU fifty times as long
        policy = restore_policy(policy_class, checkpoint, device, precision)
        envs = LocalEnvironments([environment.make() for _ in range(min(num_envs, len(seeds)))])
        try:
            answer: list[EpisodeResult] | str = rollout(envs, policy, seeds, record=record, target_returns=target_returns)
        finally:
            envs.close()
    except Exception:  # an environment may raise anything
        answer = traceback.format_exc()
    try:
        pipe.send(answer)
    except OSError:  # nobody is waiting any more
        return
