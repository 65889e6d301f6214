"""From a loss to changed weights: averaged gradients, clipping, learning-rate schedule."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from edp_lightning.algorithms.adam import PortableAdam
from edp_lightning.errors import UserError
from edp_lightning.runs.ranks import is_distributed

LRSchedule = Literal["constant", "cosine", "cooldown"]

COOLDOWN = 0.2
"""Share of a run, at its end, over which ``cooldown`` lowers the learning rate (arXiv 2405.18392, section 3)."""


def learning_rate(base: float, schedule: LRSchedule, step: int, max_steps: int) -> float:
    """Return the learning rate of a gradient step, a function of the step's number only (nothing to save for resume).

    Args:
        base: Rate at step 0.
        schedule: ``constant``; ``cosine`` from ``base`` to 0 at ``max_steps``; or ``cooldown``, constant and then in a straight
            line to 0 over the last fifth of the run.
        step: Number of finished gradient steps.
        max_steps: Length of the run in gradient steps, -1 if unbounded.

    Raises:
        UserError: If the schedule ends with the run and that has no length.
    """
    if schedule == "constant":
        return base
    if max_steps <= 0:
        raise UserError(f"a {schedule} learning rate ends at trainer.max_steps: set it, or choose the schedule constant")
    done = min(step / max_steps, 1.0)
    if schedule == "cooldown":
        return base * min(1.0, (1 - done) / COOLDOWN)
    return base * 0.5 * (1 + math.cos(math.pi * done))


def fused_adam(parameters: Iterable[nn.Parameter], lr: float) -> torch.optim.Optimizer:
    """Return Adam whose step is one kernel, and whose state travels between devices."""
    return PortableAdam(parameters, lr)


def decayed_adam(parameters: Iterable[nn.Parameter], lr: float, weight_decay: float) -> torch.optim.Optimizer:
    """Return AdamW (arXiv 1711.05101) whose step is one kernel; the decay is in units of the learning rate."""
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, fused=True)


@dataclass(frozen=True)
class Learner:
    """How a network is trained.

    Attributes:
        lr: Learning rate at its highest.
        schedule: What becomes of it over the run.
        warmup_steps: Gradient steps over which it rises linearly from 0.
        optimizer: Maps parameters and learning rate to the optimizer.
        every: Gradient steps from one of its updates to the next; the first is in step 0.
    """

    lr: float
    schedule: LRSchedule = "constant"
    warmup_steps: int = 0
    optimizer: Callable[[Iterable[nn.Parameter], float], torch.optim.Optimizer] = fused_adam
    every: int = 1

    def has_turn(self, step: int) -> bool:
        """Return whether gradient step ``step`` (counted from 0) updates it."""
        return step % self.every == 0

    def has_last_turn(self, step: int, period: int) -> bool:
        """Return whether it has its last turn among ``period`` steps, that is when its numbers are logged, in ``step``."""
        return self.has_turn(step) and step % period + self.every >= period

    def create(self, network: nn.Module) -> torch.optim.Optimizer:
        """Return the optimizer of a network."""
        return self.optimizer(network.parameters(), self.lr)

    def rate(self, step: int, max_steps: int) -> float:
        """Return the learning rate of gradient step ``step`` (counted from 0) of a run of ``max_steps``, -1 if unbounded."""
        rate = learning_rate(self.lr, self.schedule, step, max_steps)
        return rate * min((step + 1) / self.warmup_steps, 1.0) if self.warmup_steps else rate


def set_learning_rate(optimizer: Any, rate: float) -> None:
    """Set the learning rate of all parameter groups; where it is a tensor, in its place, from which a CUDA graph reads it."""
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(rate)
        else:
            group["lr"] = rate


def restate_weight_decay(optimizer: torch.optim.Optimizer) -> None:
    """Set the weight decay that an optimizer was made with: loading its state brought that of an earlier run back."""
    if "weight_decay" in optimizer.defaults:
        for group in optimizer.param_groups:
            group["weight_decay"] = optimizer.defaults["weight_decay"]


def mean_over_ranks(value: Tensor) -> Tensor:
    """Return the mean of a tensor over all ranks, detached; the tensor itself on one. All ranks must call this together.

    One all-reduce and no barrier, for which the host would wait.
    """
    return _average(value.detach().clone()) if is_distributed() else value


def _average(tensor: Tensor) -> Tensor:
    """Replace a tensor by its mean over ranks and return it."""
    if "nccl" in dist.get_backend():
        dist.all_reduce(tensor, dist.ReduceOp.AVG)
    else:
        dist.all_reduce(tensor)
        tensor /= dist.get_world_size()
    return tensor


def average_over_ranks(gradients: list[Tensor]) -> list[Tensor]:
    """Return gradients averaged over all ranks with one all-reduce; unchanged without a process group."""
    if not is_distributed():
        return gradients
    flat = _average(torch.cat([g.reshape(-1) for g in gradients]))
    pieces = torch.split(flat, [g.numel() for g in gradients])
    return [piece.view_as(g) for piece, g in zip(pieces, gradients, strict=True)]


def flat_gradients(parameters: Sequence[nn.Parameter]) -> Tensor:
    """Return one tensor of which the parameters' ``grad`` are the pieces, one after the other; made at the first call."""
    gradients = [parameter.grad for parameter in parameters]
    base = None if gradients[0] is None else gradients[0]._base
    if base is not None and all(gradient is not None and gradient._base is base for gradient in gradients):
        return base
    flat = parameters[0].new_zeros(sum(parameter.numel() for parameter in parameters))
    pieces = torch.split(flat, [parameter.numel() for parameter in parameters])
    for parameter, piece in zip(parameters, pieces, strict=True):
        parameter.grad = piece.view_as(parameter)
    return flat


def keep_gradients(parameters: Sequence[nn.Parameter], gradients: Sequence[Tensor]) -> None:
    """Put gradients, averaged over ranks, into the parameters' ``grad``: on one rank as they are, else into one flat tensor.

    Passes that write their gradients into the memory of the last ones (``critic_passes.gradient_memory``) write there at once.
    """
    if not is_distributed():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter.grad = gradient
        return
    flat = flat_gradients(parameters)
    pairs = [(p.grad, g) for p, g in zip(parameters, gradients, strict=True) if p.grad is not None and p.grad is not g]
    if pairs:
        torch._foreach_copy_([to for to, _ in pairs], [gradient for _, gradient in pairs])
    _average(flat)


def loss_gradients(loss: Tensor, network: nn.Module) -> list[Tensor]:
    """Return the gradients of ``loss`` for the parameters of ``network`` alone, in their order.

    ``torch.autograd.grad`` keeps two losses in one batch out of DistributedDataParallel's reducer, which expects a single
    backward pass over all parameters.
    """
    return list(torch.autograd.grad(loss, list(network.parameters())))


class GradientNorms(NamedTuple):
    """Norms before clipping, over the averaged gradients.

    Attributes:
        joint: Norm of all gradients of a network together, scalar.
        tensors: Norm of each parameter's gradient, in the order of the parameters, shape (parameters,).
    """

    joint: Tensor
    tensors: Tensor


def apply_gradients(optimizer: Any, network: nn.Module, gradients: list[Tensor], clip_norm: float | None) -> GradientNorms:
    """Average ``gradients`` (in the order of the network's parameters) over ranks, clip their joint norm and step."""
    parameters = list(network.parameters())
    keep_gradients(parameters, gradients)
    kept = [parameter.grad for parameter in parameters if parameter.grad is not None]
    tensors = torch.stack(torch._foreach_norm(kept))
    joint = torch.linalg.vector_norm(tensors)
    if clip_norm is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, clip_norm, joint)
    optimizer.step()
    return GradientNorms(joint, tensors)
