"""Gradient steps of any algorithm without a Trainer, on made-up rows."""

from types import SimpleNamespace
from typing import Any

import torch

from edp_lightning.algorithms.offline_algorithm import OfflineAlgorithm
from edp_lightning.callbacks import TargetNetworkUpdate
from edp_lightning.data.transitions import Batch

OBSERVATION, ACTION = 3, 2


def rows(count: int = 16, seed: int = 1) -> Batch:
    """Return random transitions; some end the task, some span several steps."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator)

    action = torch.rand(count, ACTION, generator=generator) * 1.8 - 0.9
    terminated = (torch.rand(count, generator=generator) < 0.3).float()
    steps = torch.randint(1, 4, (count,), generator=generator).float()
    return Batch(normal(count, OBSERVATION), action, normal(count), normal(count, OBSERVATION), terminated, steps)


def built(algorithm: type[OfflineAlgorithm], seed: int = 0, **options: Any) -> Any:
    """Return an algorithm with its networks; the first random numbers decide its weights."""
    torch.manual_seed(seed)
    module = algorithm(**({"observation_dim": OBSERVATION, "action_dim": ACTION} | options))
    module.configure_model()
    return module


class BareSteps:
    """Takes gradient steps of an algorithm and moves its target networks, as a Trainer would.

    Args:
        module: The algorithm, built.
        max_steps: Length of the run it is told of.
        rank: Its rank.
        world_size: Ranks.
        reduce: Averages a tensor over the ranks.
        tau: Polyak step of the target networks.
    """

    def __init__(
        self, module: Any, max_steps: int = 100, rank: int = 0, world_size: int = 1, reduce: Any = None, tau: float = 0.005
    ) -> None:
        self.module = module
        self.trainer: Any = SimpleNamespace(
            world_size=world_size,
            global_rank=rank,
            max_steps=max_steps,
            global_step=0,
            log_every_n_steps=1 << 30,
            strategy=SimpleNamespace(reduce=reduce, root_device=torch.device("cpu")),
            loggers=[],
        )
        module.set_scales(-1.0, 1.0)
        module._trainer = self.trainer
        self.optimizers = module.configure_optimizers()
        module.optimizers = lambda use_pl_optimizer=True: self.optimizers
        module.on_fit_start()
        self.targets = TargetNetworkUpdate(tau=tau, ema_start=0, ema_every=1)
        self.targets.on_train_start(self.trainer, module)

    def step(self, batch: Any) -> dict[str, Any]:
        """Take one gradient step; returns what callbacks are told of it."""
        outputs: dict[str, Any] = self.module.training_step(batch, self.trainer.global_step)
        self.trainer.global_step += 1
        self.targets.on_train_batch_end(self.trainer, self.module, outputs, batch, 0)
        return outputs
