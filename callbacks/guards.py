"""Stops a run whose numbers went bad before anything bad reaches a checkpoint, and warns of a diverging Q."""

from pathlib import Path
from typing import Any, ClassVar

import lightning as L
import torch
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from edp_lightning.data.datamodule import OfflineDataModule
from edp_lightning.errors import UserError
from edp_lightning.option_bounds import check_bounds
from edp_lightning.runs.ranks import gather_objects


class NumericsGuard(L.Callback):
    """Watches losses, gradient norms and Q-values of every gradient step.

    They are kept on the device and looked at every ``every_n_steps`` steps, before each evaluation and before each checkpoint,
    so that watching costs one copy and no synchronisation per step. Ranks share what they found and stop together; each
    saves its own rows.

    Args:
        every_n_steps: Gradient steps between looks at the values.
        q_bound: Mean magnitude of Q above which a warning is given; when not given, twice what the data allow: the largest
            magnitude of an n-step reward divided by (1 - discount^n).
    """

    at_least: ClassVar[dict[str, float]] = {"every_n_steps": 1}

    def __init__(self, every_n_steps: int = 100, q_bound: float | None = None) -> None:
        check_bounds("guard", {"every_n_steps": every_n_steps}, self)
        self.every_n_steps = every_n_steps
        self.q_bound = q_bound
        self._bound = q_bound
        self._names: list[str] = []
        self._window: Tensor | None = None  # (every_n_steps, watched values)
        self._steps: list[int] = []  # gradient steps in the window's first rows
        self._warned = False

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Derive the bound on Q from the rewards; begin to watch."""
        self._names, self._window, self._steps, self._warned = [], None, [], False
        module: Any = pl_module
        data: Any = getattr(trainer, "datamodule", None)
        discount = module.discount
        self._bound = self.q_bound
        if self.q_bound is None and isinstance(data, OfflineDataModule) and discount is not None and discount < 1:
            reward = data.facts.reward  # of windows: the largest one fills n steps
            steps = max(data.hparams["n_step"], data.hparams["action_chunk"])
            self._bound = 2 * max(abs(reward.low), abs(reward.high)) / (1 - discount**steps)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the values; look at them when it is time."""
        norms: dict[str, Tensor] = outputs["gradient_norms"]
        values = [torch.stack(list(outputs["watched"].values())), *norms.values()]
        if self._window is None:
            self._names = list(outputs["watched"])
            for network in norms:
                named = pl_module.get_submodule(network).named_parameters()
                self._names += [f"the gradient of {network}.{name}" for name, _ in named]
            self._window = torch.zeros(self.every_n_steps, len(self._names), device=values[0].device)
        torch.cat(values, out=self._window[len(self._steps)])
        self._steps.append(trainer.global_step - 1)
        if trainer.global_step % self.every_n_steps == 0:
            self._judge(trainer)
            if outputs["q"] is not None:
                self._warn_of_divergence(trainer, float(outputs["q"].abs().mean()))

    def on_validation_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Do not evaluate a policy that came out of a bad step."""
        self._judge(trainer)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        """Refuse to save a state that came out of a bad step."""
        self._judge(trainer)

    def _judge(self, trainer: L.Trainer) -> None:
        if self._window is None:
            return
        bad = (~self._window[: len(self._steps)].isfinite()).nonzero().tolist()  # in the order of steps
        first = (self._steps[bad[0][0]], bad[0][1]) if bad else None
        verdicts = [verdict for verdict in gather_objects(first) if verdict is not None]
        if not verdicts:
            self._steps.clear()
            return
        step, index = min(verdicts)
        found = self._save_batch(trainer, step)
        mine = [self._names[column] for row, column in bad if self._steps[row] == step]
        gradients = [name for name in mine if name.startswith("the gradient of")]
        also = f" (with it {gradients[0]})" if gradients and self._names[index] not in gradients else ""
        raise UserError(
            f"{self._names[index]} was not finite at gradient step {step}{also}{found}. Checkpoints saved "
            "before it are intact: lower the learning rates or the reward scale or look for outliers in the rows, then add "
            "--ckpt_path last"
        )

    def _save_batch(self, trainer: L.Trainer, step: int) -> str:
        """Write down the rows of a bad step, which any machine can read, and return where; nothing for loaders of others."""
        data: Any = getattr(trainer, "datamodule", None)
        if not isinstance(data, OfflineDataModule):
            return ""
        path = Path(trainer.default_root_dir) / f"nonfinite_step{step}_rank{trainer.global_rank}.pt"
        torch.save({name: column.cpu() for name, column in data.batch_of_step(step)._asdict().items()}, path)
        return f"; its batch is in {path}"

    def _warn_of_divergence(self, trainer: L.Trainer, magnitude: float) -> None:
        above = self._bound is not None and magnitude > self._bound
        if above and not self._warned:
            rank_zero_warn(
                f"mean |Q| is {magnitude:.3g} at step {trainer.global_step}, above {self._bound:.3g}: the critics probably "
                "diverge (guard.q_bound sets the bound)"
            )
        self._warned = above
