"""A trained policy by itself: read from a checkpoint, without its dataset and without an environment."""

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from edp_lightning.algorithms.offline_algorithm import OfflineAlgorithm
from edp_lightning.algorithms.registry import algorithm_of
from edp_lightning.errors import UserError, did_you_mean
from edp_lightning.runs.checkpoint_io import read_checkpoint
from edp_lightning.runs.rng import stream_seed
from edp_lightning.runs.run_folder import NAMED_CHECKPOINTS, checkpoint_in

Array = TypeVar("Array", Tensor, NDArray[np.floating])


class LoadedPolicy:
    """A policy that acts: observations in, actions out, both in the environment's units.

    Its random draws come from one stream per row of a batch. :meth:`reset` starts the streams, :meth:`act` goes on in them: an
    episode that is played after ``reset(seed)``, in an environment that was reset with the same seed, is the episode that
    ``test`` plays for this seed.

    A policy that remembers its episodes (``remembers``) takes each row of a batch for one of them, from a ``reset`` on; it is
    told what each has paid since its last action. All rows begin together: episodes that end apart need a policy each.

    Args:
        algorithm: A trained algorithm, on the device that it is to run on.
        seed: Seed of the streams until the first :meth:`reset`.
    """

    def __init__(self, algorithm: OfflineAlgorithm, seed: int = 0) -> None:
        self.algorithm = algorithm.eval()
        self._seed = seed
        self._target_return: float | None = None
        self._streams: list[torch.Generator] = []

    @property
    def remembers(self) -> bool:
        """Whether an action depends on the earlier steps of its episode and their rewards."""
        return self.algorithm.remembers

    @property
    def observation_dim(self) -> int:
        """Width of an observation."""
        return int(self.algorithm.hparams["observation_dim"])

    @property
    def action_dim(self) -> int:
        """Width of an action; of a policy that decides several actions at once, their joint width."""
        return int(self.algorithm.hparams["action_dim"])

    def reset(self, seed: int = 0, target_return: float | None = None) -> None:
        """Begin new episodes in all rows: start the random streams again and forget what was remembered.

        Args:
            seed: Seed of the streams.
            target_return: What each episode is to earn, in the environment's units, for policies that can be asked; the first
                of the model's ``target_returns`` when not given.

        Raises:
            UserError: If a return is asked of a policy that cannot be asked.
        """
        if target_return is not None and not self.algorithm.target_returns:
            raise UserError(f"a {type(self.algorithm).__name__} cannot be asked for a return: leave target_return out")
        self._seed, self._target_return = seed, target_return
        self._streams = []

    def act(self, observation: Array, seed: int | None = None, reward: float | Sequence[float] | None = None) -> Array:
        """Choose one action per observation. A row's action depends on the row, its stream and episode, not on other rows.

        Args:
            observation: One observation (observation_dim,) or a batch (batch, observation_dim), numpy or torch, as the
                environment gives it and flat as ``data.view`` made it for training.
            seed: Seed of this call alone: the same observation and seed give the same action, that of a first step where the
                policy remembers episodes. Not given, draws and episodes go on.
            reward: What the environment has paid since the last action, a number or one per row; for policies that remember
                their episodes, from the second step on. Others do not look at it.

        Returns:
            Actions of the same kind, and for torch on the same device: (action_dim,) or (batch, action_dim), float32.

        Raises:
            UserError: If the observation has another width, or is no array of finite numbers, or a reward is missing.
        """
        rows = self._rows(observation)
        action = self._go_on(rows, reward) if seed is None else self.algorithm.act(rows, _streams(seed, range(len(rows))))
        action = action if observation.ndim > 1 else action[0]
        if isinstance(observation, Tensor):
            return action.to(observation.device)
        return action.cpu().numpy()

    def _go_on(self, rows: Tensor, reward: float | Sequence[float] | None) -> Tensor:
        under_way, count = min(len(self._streams), len(rows)), len(rows)
        rewards = [0.0] * count
        if self.remembers and under_way:
            if reward is None:
                raise UserError(
                    f"a {type(self.algorithm).__name__} goes on from what was earned: give act(observation, reward=...) what "
                    "the environment paid for the last action, or call reset() where an episode begins"
                )
            rewards = _per_row(reward, count)
        for row in range(len(self._streams), count):
            self.algorithm.reset(row, self._target_return)
            rewards[row] = 0.0
        self._streams += _streams(self._seed, range(len(self._streams), count))
        return self.algorithm.act(rows, self._streams[:count], range(count), rewards)

    def _rows(self, observation: Tensor | NDArray[np.floating]) -> Tensor:
        """Return checked observations as a batch on the CPU, (batch, observation_dim), float32."""
        if not isinstance(observation, (Tensor, np.ndarray)):
            raise UserError(
                f"an observation must be a numpy array or a torch tensor; got {type(observation).__name__}. Put the parts of a "
                "dictionary side by side in the order that data.view had in training"
            )
        shape, width = tuple(observation.shape), self.observation_dim
        if len(shape) not in (1, 2) or shape[-1] != width:
            raise UserError(f"this policy takes observations of shape ({width},) or (batch, {width}); got {shape}")
        try:
            rows = torch.as_tensor(observation).detach().to("cpu", torch.float32).reshape(-1, width)
        except TypeError as error:
            raise UserError(f"an observation must hold numbers; got {observation.dtype}") from error
        if not bool(torch.isfinite(rows).all()):
            raise UserError("the observation holds NaN or infinite values")
        return rows


def _per_row(reward: float | Sequence[float], count: int) -> list[float]:
    """Return the reward of each of ``count`` rows."""
    try:
        rewards = np.broadcast_to(np.asarray(reward, dtype=np.float64), count)
    except (TypeError, ValueError) as error:
        raise UserError(f"reward must be a number, or one for each of the {count} rows; got {reward!r}") from error
    if not np.isfinite(rewards).all():
        raise UserError(f"reward must be finite; got {reward!r}")
    found: list[float] = rewards.tolist()
    return found


def _streams(seed: int, rows: Sequence[int]) -> list[torch.Generator]:
    """Return the random streams of rows; that of the first row is the one that an evaluation's episode of this seed has."""
    return [torch.Generator().manual_seed(stream_seed(seed, "episode", row)) for row in rows]


def load_policy(
    run_or_file: str | Path, checkpoint: str = "last", device: str | torch.device = "cpu", seed: int = 0
) -> LoadedPolicy:
    """Return the policy of a run or of a checkpoint file, ready to act.

    Neither the dataset nor an environment is needed: scales of observations and actions are in the checkpoint. The file is
    read without executing anything in it, and with the algorithm that wrote it.

    Args:
        run_or_file: Folder of a run, ``OUTPUT/DATASET/RUN_NAME-seedSEED``, or a checkpoint file.
        checkpoint: Which checkpoint of a run: ``last`` or ``best``.
        device: Where the networks run.
        seed: Seed of the policy's random draws.

    Raises:
        UserError: If there is no such run, checkpoint or device, if the file is damaged or foreign, or if its algorithm is
            not known here.
    """
    if checkpoint not in NAMED_CHECKPOINTS:
        hint = did_you_mean(checkpoint, NAMED_CHECKPOINTS)
        raise UserError(f"checkpoint must be {' or '.join(NAMED_CHECKPOINTS)}; got {checkpoint!r}{hint}")
    path = checkpoint_in(run_or_file, checkpoint)
    if Path(run_or_file).is_dir() and not path.is_file():
        raise UserError(
            f"{run_or_file} holds no checkpoints/{checkpoint}.ckpt: give the folder of a run, "
            "OUTPUT/DATASET/RUN_NAME-seedSEED, that has saved one, or a checkpoint file"
        )
    if not path.exists():
        raise UserError(f"{path} does not exist: give the folder of a run or a checkpoint file")
    saved = read_checkpoint(path)
    target = _device(device)
    algorithm = algorithm_of(saved)
    module = algorithm.load_from_checkpoint(path, map_location="cpu", weights_only=True)
    return LoadedPolicy(module.to(target), seed)


def _device(device: str | torch.device) -> torch.device:
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device {device} cannot be used here: {str(error).splitlines()[0]}") from error
    return found
