"""The only place where the entropy coefficient changes."""

import math
from typing import Any, ClassVar, Literal

import lightning as L
import torch
from torch import Tensor

from edp_lightning.algorithms.inspection import TunableEntropy
from edp_lightning.algorithms.optimization import average_over_ranks
from edp_lightning.errors import UserError
from edp_lightning.networks.coefficient import CoefficientNetwork
from edp_lightning.option_bounds import check_bounds
from edp_lightning.runs.rng import stream_seed


class EntropyCoefficientTuning(L.Callback):
    """Learns the entropy coefficient so that the policy's entropy estimate approaches a target.

    SAC's rule (arXiv 1812.05905, section 5): ``J(alpha) = E[alpha (H - H_target)]`` with Adam on log alpha; alpha grows while
    the entropy is below the target. ``scalar`` learns one alpha, the module's buffer ``log_entropy_coef``. ``state`` learns
    alpha(s), a network with one hidden layer of 32 (arXiv 2402.04080, appendix) that starts at ``model.entropy_coef``
    everywhere; it lives here because only training needs it. Gradients are averaged over the global batch, so alpha is the
    same on all ranks; Adam's state and the network are saved with the checkpoint.

    Only ``path`` is an entropy that alpha can steer. ``bridge`` does not respond to it, and ``reference`` is on average above
    0.7 nats per action dimension whatever the policy does: with the default target its alpha only shrinks. ``path`` itself
    has a range: at T = 5, clipped, from 0.86 nats per dimension (one action) to about 1.07; alpha grows without bound
    towards a target beyond it.

    Args:
        enabled: Off keeps the coefficient at ``model.entropy_coef``, as in the released code of arXiv 2402.04080.
        mode: One coefficient for all states (``scalar``), or one per state (``state``).
        target_entropy: Target in nats. When not given: SAC's -1 nat per action dimension, which for ``path`` is carried over to
            the entropy of a^1 that it bounds (see ``DiffusionPolicy.default_target_entropy``).
        lr: Adam learning rate.
    """

    at_least: ClassVar[dict[str, float]] = {"lr": 0}

    def __init__(
        self,
        enabled: bool = False,
        mode: Literal["scalar", "state"] = "scalar",
        target_entropy: float | None = None,
        lr: float = 3.0e-4,
    ) -> None:
        check_bounds("entropy_tuning", {"lr": lr}, self)
        self.enabled = enabled
        self.mode = mode
        self.target_entropy = target_entropy
        self.lr = lr
        self.optimizer: torch.optim.Adam | None = None
        self.network: CoefficientNetwork | None = None
        self._target = math.nan
        self._log_coef: Tensor | None = None
        self._saved: dict[str, Any] | None = None

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        """Refuse to tune where there is no entropy to steer by."""
        module: Any = pl_module
        if stage == "fit" and self.enabled and module.tunable_entropy is None:
            raise UserError(
                "entropy_tuning.enabled needs an entropy estimator: set model.entropy if this algorithm has one, or switch "
                "tuning off"
            )

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Create what is learned and its Adam, continuing a loaded state; without tuning, set the chosen coefficient."""
        module: Any = pl_module
        if not self.enabled:
            fixed: TunableEntropy | None = module.tunable_entropy
            if fixed is not None:  # the one in a checkpoint may be an earlier run's
                fixed.log_coef.copy_(torch.tensor(float(fixed.initial)).log())
                fixed.use_coefficient(None)
            return
        entropy: TunableEntropy = module.tunable_entropy
        self._log_coef = entropy.log_coef
        self._target = entropy.default_target() if self.target_entropy is None else self.target_entropy
        if self.mode == "state":
            self.network = self._create_network(module, entropy.initial)
        entropy.use_coefficient(None if self.network is None else self.network.forward)
        learned = [entropy.log_coef] if self.network is None else list(self.network.parameters())
        self.optimizer = torch.optim.Adam(learned, lr=self.lr)
        if self._saved is not None:
            self._restore(self._saved)

    def _create_network(self, module: Any, initial: float) -> CoefficientNetwork:
        with torch.random.fork_rng(devices=[]):  # the same weights on every rank, whatever was drawn before
            torch.manual_seed(stream_seed(module.seed, "entropy coefficient", 0))
            network = CoefficientNetwork(module.observation_dim, initial)
        return network.to(module.device)

    def _restore(self, saved: dict[str, Any]) -> None:
        assert self.optimizer is not None
        if (self.network is None) != (saved.get("network") is None):
            raise UserError("the checkpoint's run tuned its entropy coefficient in the other mode: keep entropy_tuning.mode")
        if self.network is not None:
            self.network.load_state_dict(saved["network"])
        self.optimizer.load_state_dict(saved["optimizer"])
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take one Adam step from this batch's entropy estimates."""
        if self.optimizer is None:
            return
        module: Any = pl_module
        entropy: Tensor = outputs["entropy"]
        if self.network is None:
            assert self._log_coef is not None
            self._log_coef.grad = self._log_coef.exp() * (module.mean_over_ranks(entropy.mean()) - self._target)
        else:
            coef = self.network(module.normalizer(batch.observation[: len(entropy)]))
            parameters = list(self.network.parameters())
            objective = (coef * (entropy - self._target)).mean()
            gradients = average_over_ranks(list(torch.autograd.grad(objective, parameters)))
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.grad = gradient
        self.optimizer.step()

    def state_dict(self) -> dict[str, Any]:
        """Return Adam's state and the network, if there is one; empty while tuning is off."""
        if self.optimizer is None:
            return {}
        network = {} if self.network is None else {"network": self.network.state_dict()}
        return {"optimizer": self.optimizer.state_dict()} | network

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep the state until there is something to load it into."""
        self._saved = state_dict or None
