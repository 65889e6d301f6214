"""Time of one gradient step of an algorithm under the real Trainer, against the plain program in ``benchmarks/peers``.

Run as ``python benchmarks/step.py --algorithm NAME [--quick] [--eager] [--threads 1]``. Both take turns on the same rows.
Algorithms without a plain program are timed alone; those that learn from windows of trajectories get such.
"""

import argparse
import gc
import importlib
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from benchmarks.step_data import ACTION, OBSERVATION, ROWS, Data
from edp_lightning.algorithms.registry import algorithm_class
from edp_lightning.callbacks.forced import FORCED_CALLBACKS
from edp_lightning.data.loader import TransitionLoader
from edp_lightning.data.trajectories import Trajectories

PEERS = {"BehaviorCloning": "bc", "CQL": "cql", "IQL": "iql", "ReBRAC": "rebrac"}
"""Algorithm -> its plain program."""

OPTIONS: dict[str, dict[str, Any]] = {"DecisionTransformer": {"target_returns": [1000.0], "return_scale": 1000.0}}
"""Algorithm -> what these rows cannot tell it."""

EPISODE = 1000
"""Rows of a trajectory."""

MAX_RATIO, COMPILED_SPEEDUP = 1.2, 1.5


class RowsForAlgorithm(Data):
    """The same rows; batches hold next actions, or are windows, where the algorithm wants them."""

    module: Any = None

    def loader(self) -> TransitionLoader:
        gather: Any = None
        if self.module.context_length is not None:
            episodes = [EPISODE] * (len(self.table) // EPISODE)
            gather = Trajectories(self.table, episodes).windows(self.module.context_length)
        elif self.module.uses_next_action:
            gather = self.table.gather_with_successors
        return TransitionLoader(self.table, ROWS, 1_000_000, seed=0, gather=gather)


def measure(arguments: argparse.Namespace) -> dict[str, float]:
    """Return milliseconds per step of the Trainer, medians over rounds; where there is one also of the plain program.

    Returns:
        ``trainer_ms``; ``plain_ms`` and their ``ratio``.
    """
    times: dict[str, list[float]] = {"plain": [], "trainer": []}
    torch.manual_seed(0)
    options = OPTIONS.get(arguments.algorithm, {})
    module = algorithm_class(arguments.algorithm)(compile=arguments.compile, **options)  # type: ignore[call-arg]
    name = PEERS.get(arguments.algorithm)
    peer = None if name is None else importlib.import_module(f"benchmarks.peers.{name}").Peer(OBSERVATION, ACTION)
    clock: Callable[[], float] = time.process_time if arguments.clock == "cpu" else time.perf_counter

    def turns() -> Iterator[int]:
        for _ in range(4):  # compilation, first touches of memory
            yield 0
            plain()
        start = clock()
        yield 0
        plain()
        repeat = max(2, min(500, int(arguments.seconds / (clock() - start))) // 2 * 2)  # whole periods of delayed actors
        for _ in range(arguments.rounds):
            start = clock()
            for _ in range(repeat):
                plain()
            times["plain"].append((clock() - start) / repeat * 1e3)
            yield 0  # the Trainer's own work after a turn belongs to its next one
            start = clock()
            yield from range(repeat)
            times["trainer"].append((clock() - start) / repeat * 1e3)

    data = RowsForAlgorithm(torch.device("cpu"), turns)
    data.module = module
    rows, count = data.loader(), [0]

    def plain() -> None:
        if peer is None:
            return
        peer.step(rows.batch(count[0])._asdict())
        count[0] += 1

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = L.Trainer(
            accelerator="cpu",
            devices=1,
            max_steps=1_000_000,
            max_epochs=1,
            log_every_n_steps=100,
            limit_val_batches=0,
            logger=TensorBoardLogger(folder),
            callbacks=[callback() for callback in FORCED_CALLBACKS.values()],
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=folder,
        )
        trainer.fit(module, datamodule=data)
    gc.collect()
    median = {name: statistics.median(values) for name, values in times.items()}
    if peer is None:
        return {"trainer_ms": median["trainer"]}
    ratio = statistics.median(t / p for p, t in zip(times["plain"], times["trainer"], strict=True))
    return {"plain_ms": median["plain"], "trainer_ms": median["trainer"], "ratio": ratio}


def report(arguments: argparse.Namespace) -> None:
    """Measure and print one line of numbers and one per goal."""
    torch.set_num_threads(arguments.threads[0])
    found: Any = measure(arguments)
    form = "compiled" if arguments.compile else "eager"
    machine = f"{arguments.threads[0]} threads, batch {ROWS}, torch {torch.__version__}, clock {arguments.clock}"
    print(f"{arguments.algorithm}, {form}, {machine}")
    if "ratio" not in found:
        print(f"{found['trainer_ms']:.2f} ms per step")
        return
    print(f"plain {found['plain_ms']:.2f} ms, here {found['trainer_ms']:.2f} ms per step")
    if arguments.compile:
        speedup = 1 / found["ratio"]
        print(f"goal compiled_speedup {speedup:.2f} {COMPILED_SPEEDUP} {'met' if speedup >= COMPILED_SPEEDUP else 'missed'}")
    else:
        print(f"goal time_ratio {found['ratio']:.2f} {MAX_RATIO} {'met' if found['ratio'] <= MAX_RATIO else 'missed'}")
