"""One gradient step against numbers recorded from the released code of arXiv 2402.04080.

``fixtures/reference_step.npz`` holds, for three settings, a batch, every random draw in the order it was made, the metrics and
digests of all parameters after the step. Weights before the step follow a formula, see :func:`initial_weight`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from torch import Tensor

from edp_lightning.algorithms.entropy_diffusion import EntropyDiffusionPolicy
from edp_lightning.algorithms.noise import StepNoise
from edp_lightning.callbacks import TargetNetworkUpdate
from edp_lightning.data.transitions import Batch

FIXTURE = Path(__file__).parents[1] / "fixtures" / "reference_step.npz"
TOLERANCE = 2e-6
CHANGE_TOLERANCE = 5e-5
"""For changes of weights: Adam's first step is nearly the gradient's sign, so entries with vanishing gradients are noise."""

SETTINGS: dict[str, dict[str, Any]] = {
    "nml": {"bc_loss": "noise_matching", "clip_start": True, "eta": 2.0},
    "nml_maxq": {"bc_loss": "noise_matching", "clip_start": True, "eta": 2.0, "max_q_backup": True},
    "mll": {"bc_loss": "likelihood", "clip_start": False, "eta": 1.0},
}
NETWORKS = {"actor": "actor", "ema_model": "ema_actor", "critic": "critic", "critic_target": "target_critic"}
METRICS = {
    "critic_loss": "critic/loss",
    "Critic Grad Norm": "critic/gradient_norm",
    "Target_Q Mean": "critic/target",
    "bc_loss": "actor/bc_loss",
    "ql_loss": "actor/q_loss",
    "Actor Grad Norm": "actor/gradient_norm",
    "entropy": "actor/entropy",
}


def initial_weight(shape: torch.Size, role: int, number: int, inputs: int) -> Tensor:
    """w_i = 0.9/sqrt(n_in) sin(0.37 (i+1)^1.5 + 1.7 p + 0.5 r), the recipe the fixture was recorded with."""
    i = np.arange(int(np.prod(shape)), dtype=np.float64)
    values = 0.9 / np.sqrt(inputs) * np.sin(0.37 * (i + 1) ** 1.5 + 1.7 * number + 0.5 * role)
    return torch.from_numpy(values.reshape(tuple(shape))).float()


def set_initial_weights(module: EntropyDiffusionPolicy) -> None:
    for role, name in enumerate(["actor", "ema_actor", "critic", "target_critic"]):
        for number, parameter in enumerate(getattr(module, name).parameters()):
            is_critic, is_weight = "critic" in name, number % 2 == 0
            inputs = parameter.shape[1] if is_weight else 100
            assert is_weight == (parameter.shape[1] > 1 if is_critic else parameter.dim() == 2)
            parameter.data.copy_(initial_weight(parameter.shape, role, number, inputs))


class RecordedNoise(L.Callback):
    """Replaces the module's noise by the recorded draws and keeps what it logs."""

    def __init__(self, noise: StepNoise) -> None:
        self.noise = noise
        self.logged: dict[str, float] = {}

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        set_initial_weights(pl_module)  # type: ignore[arg-type]
        recorded = self.noise

        class Source:
            def draw(self, *args: int) -> StepNoise:
                return recorded

        pl_module._noise = Source()

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        self.logged = {name: float(value) for name, value in trainer.callback_metrics.items()}


class OneBatch:
    """A loader of a single batch; a list would be taken for several loaders."""

    def __init__(self, batch: Batch) -> None:
        self.batch = batch

    def __len__(self) -> int:
        return 1

    def __iter__(self) -> Iterator[Batch]:
        yield self.batch


@pytest.mark.parametrize("case", list(SETTINGS))
def test_one_gradient_step_equals_the_released_code(case: str, tmp_path: Path) -> None:
    data = {k.removeprefix(f"{case}/"): v for k, v in np.load(FIXTURE).items() if k.startswith(f"{case}/")}
    tensor = {k.removeprefix("batch/"): torch.from_numpy(v).float() for k, v in data.items() if k.startswith("batch/")}
    terminated = tensor["terminated"].squeeze(1)
    batch = Batch(
        observation=tensor["observation"],
        action=tensor["action"],
        reward=tensor["reward"].squeeze(1),
        next_observation=tensor["next_observation"],
        terminated=terminated,
        steps=torch.ones_like(terminated),
    )
    draws = [torch.from_numpy(data[k]) for k in sorted(k for k in data if k.startswith("noise/"))]
    noise = StepNoise(
        next_action=torch.stack(draws[:5]).float(),  # draw 5 belongs to the last reverse step and is multiplied by 0
        time=draws[7].flatten().long() + 1,
        action=draws[6].float(),
        entropy=draws[8].float().unsqueeze(0),
    )
    module = EntropyDiffusionPolicy(
        observation_dim=5, action_dim=3, num_critics=4, entropy="reference", entropy_coef=0.01, **SETTINGS[case]
    )
    module.set_scales(-1.0, 1.0)
    record = RecordedNoise(noise)
    trainer = L.Trainer(
        accelerator="cpu",
        max_steps=1,
        log_every_n_steps=1,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[TargetNetworkUpdate(ema_start=0), record],
        default_root_dir=tmp_path,
    )
    trainer.fit(module, OneBatch(batch), OneBatch(batch))

    for theirs, ours in METRICS.items():
        assert record.logged[ours] == pytest.approx(float(data[f"metric/{theirs}"]), rel=TOLERANCE), ours
    for role, (theirs, ours) in enumerate(NETWORKS.items()):
        names = [k.removeprefix(f"after/{theirs}/") for k in data if k.startswith(f"after/{theirs}/")]
        parameters = list(getattr(module, ours).parameters())
        assert len(names) == len(parameters)
        for number, (name, parameter) in enumerate(zip(names, parameters, strict=True)):
            value = parameter.detach().double()
            inputs = parameter.shape[1] if number % 2 == 0 else 100
            before = initial_weight(parameter.shape, role, number, inputs).double()
            digest = [value.sum().item(), value.norm().item(), (value - before).norm().item()]
            total, norm, change = data[f"after/{theirs}/{name}"]
            assert digest[0] == pytest.approx(total, abs=CHANGE_TOLERANCE * norm), (ours, name)
            assert digest[1] == pytest.approx(norm, rel=TOLERANCE), (ours, name)
            assert digest[2] == pytest.approx(change, rel=CHANGE_TOLERANCE), (ours, name)
            if f"after_full/{theirs}/{name}" in data:
                full = torch.from_numpy(data[f"after_full/{theirs}/{name}"]).double().view_as(value)
                torch.testing.assert_close(value, full, rtol=1e-5, atol=3e-6)
