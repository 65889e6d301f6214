"""Writes Minari sets that are either complete or absent."""

import contextlib
import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import gymnasium as gym
import minari
from gymnasium.envs.registration import EnvSpec
from minari import create_dataset_from_buffers
from minari.data_collector import EpisodeBuffer
from minari.dataset.minari_dataset import parse_dataset_id
from minari.namespace import create_namespace, list_local_namespaces

from edp_lightning import __version__
from edp_lightning.collect.dataset_folder import dataset_folder
from edp_lightning.collect.recorder import RecordedEpisode
from edp_lightning.environments.mazes import remove_model_file
from edp_lightning.environments.quiet import quiet_gymnasium
from edp_lightning.errors import UserError
from edp_lightning.runs.file_lock import one_at_a_time


def check_target(dataset_id: str) -> None:
    """Raise if a set of this id cannot be written: sets are never overwritten, and nobody wants to hear it after collecting.

    Raises:
        UserError: Naming the folder, or what is wrong with the id.
    """
    try:
        whole = parse_dataset_id(dataset_id)[2] is not None
    except (ValueError, TypeError):
        whole = False
    if not whole:
        raise UserError(f"{dataset_id!r} is no id that Minari could write: give one such as mine/hopper/medium-v0")
    path = dataset_folder(dataset_id)
    if path.exists():
        raise UserError(f"dataset {dataset_id} exists already in {path}: delete that folder or choose another --output")
    root = dataset_folder()
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=root):
            pass
    except OSError as error:
        raise UserError(
            f"dataset {dataset_id} cannot be written to {root} ({error}): MINARI_DATASETS_PATH chooses another folder"
        ) from error


@contextmanager
def collecting_alone(dataset_id: str) -> Iterator[None]:
    """Wait until no other process collects this set, and let none begin before the context ends.

    For those who want the set and not its collection: they ask inside whether it is there by now.
    """
    root = dataset_folder()
    with contextlib.ExitStack() as alone:
        with contextlib.suppress(OSError):  # the collection says what is wrong with the folder
            root.mkdir(parents=True, exist_ok=True)
            lock = root / f".collecting-{dataset_id.replace('/', '-')}.lock"
            waiting = partial(print, f"another process collects {dataset_id}: waiting for it", flush=True)
            alone.enter_context(one_at_a_time(lock, waiting))
        yield


def write_dataset(
    dataset_id: str,
    episodes: Sequence[RecordedEpisode],
    collection: EnvSpec,
    evaluation: EnvSpec,
    algorithm: str,
    description: str,
) -> Path:
    """Write a set under Minari's dataset folder and return its path.

    Raises:
        UserError: If the id is taken or the folder cannot be written.
    """
    buffers = [
        EpisodeBuffer(
            id=index,
            seed=episode.seed,
            observations=episode.observations,
            actions=episode.actions,
            rewards=episode.rewards,
            terminations=episode.terminations,
            truncations=episode.truncations,
            infos=episode.infos or None,
        )
        for index, episode in enumerate(episodes)
    ]
    with complete_or_absent(dataset_id) as target, quiet_gymnasium():
        env = gym.make(collection, disable_env_checker=True)
        create_dataset_from_buffers(
            dataset_id,
            buffers,
            env=env,
            eval_env=evaluation,
            algorithm_name=algorithm,
            author="edp_lightning",
            description=f"{description} Collected on this machine with edp_lightning {__version__}.",
            requirements=[f"minari=={minari.__version__}"],
        )
        env.close()
        remove_model_file(env)
    return target


@contextmanager
def complete_or_absent(dataset_id: str) -> Iterator[Path]:
    """Let Minari write a set inside the context: into a hidden folder beside its place, renamed when it is complete.

    Yields:
        Where the set will be.

    Raises:
        UserError: If the id is taken or the folder cannot be written.
    """
    check_target(dataset_id)
    root, target = dataset_folder(), dataset_folder(dataset_id)
    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".collecting-", dir=root) as hidden:
            with _datasets_path(hidden):
                yield target
            namespace = dataset_id.rpartition("/")[0]
            if namespace and namespace not in list_local_namespaces():
                create_namespace(namespace)
            os.replace(Path(hidden) / dataset_id, target)
    except OSError as error:
        raise UserError(
            f"dataset {dataset_id} could not be written to {root} ({error}): nothing was left behind; "
            "MINARI_DATASETS_PATH chooses another folder"
        ) from error


@contextmanager
def _datasets_path(path: str) -> Iterator[None]:
    before = os.environ.get("MINARI_DATASETS_PATH")
    os.environ["MINARI_DATASETS_PATH"] = path
    try:
        yield
    finally:
        if before is None:
            del os.environ["MINARI_DATASETS_PATH"]
        else:
            os.environ["MINARI_DATASETS_PATH"] = before
