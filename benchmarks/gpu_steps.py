"""Gradient steps for ``gpu_check.py``: each contender's step, its time, how often it waits, and losses side by side."""

import statistics
import time
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.utils._pytree import tree_map_only

from benchmarks.baseline import PlainStep
from benchmarks.operators import Operators
from benchmarks.step import BACKUP, HIDDEN, STEPS_OF_CHAIN, bare_step, build, product_flops
from benchmarks.step_data import ACTION, OBSERVATION, ROWS, Data
from edp_lightning.algorithms.noise import NoiseSource
from edp_lightning.algorithms.recorded_step import RecordedStep
from edp_lightning.callbacks.target_update import move_towards

CONTENDERS = ("baseline", "eager", "compiled", "captured")


class Row(NamedTuple):
    """What is measured: number of critics, max-Q, precision (``tf32`` or ``bf16``)."""

    critics: int
    max_q: bool
    precision: str

    @property
    def backup(self) -> int:
        return BACKUP if self.max_q else 1

    @property
    def hidden_precision(self) -> str:
        return "bfloat16" if self.precision == "bf16" else "float32"


def recorded_step(row: Row, data: Data, device: torch.device, compiled: bool) -> Callable[[], dict[str, Tensor]]:
    """Return a function that takes one gradient step between fixed addresses: a CUDA graph from the fourth one on."""
    module = build(row.critics, row.backup, row.hidden_precision, compiled)
    module.configure_model()
    module.to(device)
    module.prepare_step(compiled=compiled)
    optimizers = module.configure_optimizers()
    module._optimizers_now = dict(zip(module._learners, optimizers, strict=True))
    recorded = RecordedStep(module._step_on, optimizers, device)  # type: ignore[arg-type]
    source, loader, count = NoiseSource(0, STEPS_OF_CHAIN, ACTION, row.backup, 1, device), data.loader(), 0
    pairs = ((module.target_critic, module.critic), (module.ema_actor, module.actor))
    moves = [[list(network.parameters()) for network in pair] for pair in pairs]

    def step() -> dict[str, Tensor]:
        nonlocal count
        outputs = recorded.step(optimizers[0].step, loader.batch(count), source.draw(count, ROWS))
        for target, online in moves:
            move_towards(target, online, 0.005)
        count += 1
        return outputs.watched

    return step


def contender(name: str, row: Row, data: Data, device: torch.device) -> Callable[[], Any]:
    """Return a function that takes one step of a contender."""
    if name == "captured":
        return recorded_step(row, data, device, compiled=device.type == "cuda")
    if name != "baseline":
        module = build(row.critics, row.backup, row.hidden_precision, name == "compiled")
        return bare_step(module, data, row.backup, device)
    plain = PlainStep(OBSERVATION, ACTION, row.critics, HIDDEN, row.backup, device)
    source, loader, count = NoiseSource(0, STEPS_OF_CHAIN, ACTION, row.backup, 1, device), data.loader(), [0]

    def step() -> None:
        plain.step(loader.batch(count[0]), source.draw(count[0], ROWS))
        count[0] += 1

    return step


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def waits(step: Callable[[], Any], device: torch.device) -> int:
    """Return how often the host waits for the device in one step."""
    if device.type != "cuda":
        with Operators() as operators:
            step()
        return operators.synchronisations
    synchronize(device)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("called a synchronizing CUDA operation" in str(warning.message) for warning in caught)


def measure(row: Row, device: torch.device, seconds: float, rounds: int, names: tuple[str, ...]) -> dict[str, Any]:
    """Return milliseconds per step (medians over rounds, taken in turns), waits and the share of the product rate."""
    data = Data(device, lambda: iter(()))
    steps = {name: contender(name, row, data, device) for name in names}
    for step in steps.values():
        for _ in range(6 if device.type == "cuda" else 1):  # compilation, warm-up, recording
            step()
    counted = {name: waits(step, device) for name, step in steps.items()}
    dtype = torch.bfloat16 if row.precision == "bf16" else torch.float32
    side = 256 if device.type == "cpu" else 4096
    left, right = (torch.randn(8, side, side, device=device).to(dtype) for _ in range(2))
    contenders: dict[str, Callable[[], Any]] = {**steps, "product": lambda: torch.bmm(left, right)}
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds):
        for name, step in contenders.items():
            synchronize(device)
            start = time.perf_counter()
            repeat = 0
            while repeat < 1 or time.perf_counter() - start < seconds:
                for _ in range(10 if device.type == "cuda" else 1):
                    step()
                    repeat += 1
                synchronize(device)
            times[name].append((time.perf_counter() - start) / repeat * 1e3)
    median = {name: statistics.median(values) for name, values in times.items()}
    rate = 2 * 8 * side**3 / (median.pop("product") * 1e-3)
    fastest = median[names[-1]] * 1e-3
    return {
        **row._asdict(),
        "ms": median,
        "waits": counted,
        "rate_tflops": rate / 1e12,
        "share": product_flops(row.critics, row.backup) / fastest / rate,
    }


def losses(device: torch.device, recorded: bool, steps: int, row: Row) -> list[dict[str, float]]:
    """Return losses and gradient norms of the first steps from one seed, on batches and noise of the CPU's generators."""
    from edp_lightning.data.transitions import Batch

    cpu = torch.device("cpu")
    data = Data(cpu, lambda: iter(()))
    module = build(row.critics, row.backup, row.hidden_precision, False)
    module.configure_model()
    module.to(device)
    module.prepare_step(compiled=False)
    optimizers = module.configure_optimizers()
    module._optimizers_now = dict(zip(module._learners, optimizers, strict=True))
    taker = RecordedStep(module._step_on, optimizers, device) if recorded else None  # type: ignore[arg-type]
    source, loader = NoiseSource(0, STEPS_OF_CHAIN, ACTION, row.backup, 1, cpu), data.loader()
    found = []
    for count in range(steps):
        inputs = tree_map_only(Tensor, lambda tensor: tensor.to(device), (loader.batch(count), source.draw(count, ROWS)))
        batch, noise = Batch(*inputs[0]), inputs[1]
        if taker is None:
            watched = module._step_on(batch, noise).watched
        else:
            watched = taker.step(optimizers[0].step, batch, noise).watched
        move_towards(list(module.target_critic.parameters()), list(module.critic.parameters()), 0.005)
        found.append({name: float(value) for name, value in watched.items()})
    return found
