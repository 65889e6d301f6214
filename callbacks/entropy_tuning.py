"""The only place where the entropy coefficient changes."""

from typing import Any

import lightning as L
import torch
from torch import Tensor

from edp_lightning.errors import UserError


class EntropyCoefficientTuning(L.Callback):
    """Learns log alpha so that the policy's entropy estimate approaches a target (SAC, arXiv 1812.05905, section 5).

    ``J(alpha) = E[alpha (H - H_target)]`` with Adam on log alpha: alpha grows while the entropy is below the target. The
    estimate is the mean over the global batch, so alpha is the same on all ranks. Alpha itself is the module's
    buffer ``log_entropy_coef``; this callback's Adam state is saved with the checkpoint.

    Args:
        enabled: Off keeps the coefficient at ``model.entropy_coef``, as in the released code of arXiv 2402.04080.
        target_entropy: Target in nats; ``-action_dim`` when not given.
        lr: Adam learning rate of log alpha.
    """

    def __init__(self, enabled: bool = False, target_entropy: float | None = None, lr: float = 3.0e-4) -> None:
        self.enabled = enabled
        self.target_entropy = target_entropy
        self.lr = lr
        self.optimizer: torch.optim.Adam | None = None
        self._saved: dict[str, Any] | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse a combination in which the coefficient would run away: no estimator, hence no entropy to steer by."""
        if stage == "fit" and self.enabled and pl_module.hparams["entropy"] == "none":
            raise UserError("entropy_tuning.enabled needs an entropy estimator: set model.entropy, or switch tuning off")

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Create Adam for log alpha, continuing a loaded state."""
        if not self.enabled:
            return
        if self.target_entropy is None:
            self.target_entropy = -float(pl_module.hparams["action_dim"])
        log_coef = pl_module.log_entropy_coef
        assert isinstance(log_coef, Tensor)
        self.optimizer = torch.optim.Adam([log_coef], lr=self.lr)
        if self._saved is not None:
            self.optimizer.load_state_dict(self._saved)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take one Adam step on log alpha from this batch's globally averaged entropy."""
        if self.optimizer is None:
            return
        assert self.target_entropy is not None
        log_coef: Any = pl_module.log_entropy_coef
        log_coef.grad = log_coef.exp() * (outputs["entropy"] - self.target_entropy)
        self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Return Adam's state; empty while tuning is off."""
        return {} if self.optimizer is None else {"optimizer": self.optimizer.state_dict()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep Adam's state until the optimizer exists."""
        self._saved = state_dict.get("optimizer")
