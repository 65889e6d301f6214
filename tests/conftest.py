"""Small datasets on disk, and short runs."""

import logging
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck
from minari import create_dataset_from_buffers
from minari.data_collector import EpisodeBuffer

from edp_lightning.cli import main
from edp_lightning.collect import collect
from edp_lightning.environments.quiet import quiet_gymnasium


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def lightnings_messages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pytest see them: Lightning decides that at its import, by what listens at that moment."""
    monkeypatch.setattr(logging.getLogger("lightning.pytorch"), "propagate", True)


@pytest.fixture(autouse=True)
def minari_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder of Minari sets for every test: nothing of the user's is read or written."""
    root = tmp_path / "minari"
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(root))
    monkeypatch.setenv("EDP_LIGHTNING_CACHE", str(tmp_path / "cache"))
    return root


def make_buffer(index: int, observations: Any, actions: Any, rewards: Sequence[float], **ends: Any) -> EpisodeBuffer:
    steps = len(rewards)
    terminations = ends.get("terminations", [False] * steps)
    truncations = ends.get("truncations", [False] * (steps - 1) + [True])
    return EpisodeBuffer(
        id=index,
        observations=observations,
        actions=np.asarray(actions, dtype=np.float32),
        rewards=list(rewards),
        terminations=list(terminations),
        truncations=list(truncations),
    )


def make_set(
    dataset_id: str,
    buffers: list[EpisodeBuffer],
    observation_space: gym.Space[Any] | None = None,
    action_space: gym.Space[Any] | None = None,
    **kwargs: Any,
) -> str:
    """Write a Minari set the way any user would."""
    with quiet_gymnasium():
        create_dataset_from_buffers(
            dataset_id,
            buffers,
            observation_space=observation_space or gym.spaces.Box(-np.inf, np.inf, (2,)),
            action_space=action_space or gym.spaces.Box(-1.0, 1.0, (1,)),
            **kwargs,
        )
    return dataset_id


@pytest.fixture
def random_set() -> str:
    """Three episodes of 4, 3 and 5 steps; observations count 100 * episode + step."""
    rng = np.random.default_rng(0)
    buffers = []
    for episode, steps in enumerate((4, 3, 5)):
        observations = np.stack([np.array([100.0 * episode + t, t]) for t in range(steps + 1)])
        buffers.append(make_buffer(episode, observations, rng.uniform(-1, 1, (steps, 1)), rng.normal(size=steps)))
    return make_set("tests/random-v0", buffers)


@pytest.fixture
def pendulum_set() -> str:
    """Three episodes of 20 random steps with the widths of Pendulum-v1."""
    rng = np.random.default_rng(0)
    return make_set(
        "tests/pendulum-v0",
        [make_buffer(i, rng.normal(size=(21, 3)), rng.uniform(-2, 2, (20, 1)), rng.normal(size=20)) for i in range(3)],
        observation_space=gym.spaces.Box(-np.inf, np.inf, (3,)),
        action_space=gym.spaces.Box(-2.0, 2.0, (1,)),
    )


@pytest.fixture(scope="session")
def collected_toy_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("collected")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(root))
        collect("toy", steps=400)
    return root


@pytest.fixture
def toy_set(collected_toy_set: Path, minari_root: Path) -> str:
    """The two-step task's set, 400 steps: collected once, every test has its own copy."""
    shutil.copytree(collected_toy_set, minari_root, dirs_exist_ok=True)
    return "edp/toy/two-step-v0"


FUZZ_SETTINGS: dict[str, Any] = {"deadline": None, "database": None, "suppress_health_check": list(HealthCheck)}
"""For hypothesis: runs take seconds, nothing is kept between them, fixtures are shared by examples."""

TINY = [
    "--model.hidden_dims=[16,16]",
    "--model.num_critics=3",
    "--model.num_diffusion_steps=3",
    "--model.num_candidates=3",
    "--data.batch_size=8",
    "--data.steps_per_epoch=5",
    "--trainer.accelerator=cpu",
    "--trainer.log_every_n_steps=1",
    "--trainer.enable_model_summary=false",
    "--evaluation.num_episodes=3",
    "--evaluation.num_test_episodes=4",
    "--evaluation.num_envs=2",
    "--last_checkpoint.every_n_steps=5",
]


@pytest.fixture
def command(tmp_path: Path) -> Callable[..., Path]:
    """Run ``fit`` and friends on the toy set with tiny networks; returns the run's folder."""

    def run(subcommand: str, *extra: str, dataset: str = "edp/toy/two-step-v0", run_name: str = "t") -> Path:
        main(
            [subcommand, f"--data.dataset={dataset}", f"--output={tmp_path / 'runs'}", f"--run_name={run_name}", *TINY, *extra]
        )
        return tmp_path / "runs" / dataset.replace("/", "-") / f"{run_name}-seed0"

    return run


def finish(process: "subprocess.Popen[str]") -> None:
    """Wait for a process whose stderr is a pipe, and show its end if it failed."""
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Read all TensorBoard scalars of a run: name -> [(step, value)], in the order they were written."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found: dict[str, list[tuple[int, float]]] = {}
    for file in sorted(folder.glob("events*")):
        events = EventAccumulator(str(file), size_guidance={"scalars": 0})
        events.Reload()
        for name in events.Tags()["scalars"]:
            found.setdefault(name, []).extend((e.step, e.value) for e in events.Scalars(name))
    return found
