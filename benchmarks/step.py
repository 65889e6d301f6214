"""Speed of one gradient step: a plain program, this package without Lightning, and this package under the real Trainer.

    python benchmarks/step.py --algorithm IQL [--eager] against the plain program in benchmarks/peers
    python benchmarks/step.py [--quick] [--device cuda] [--critics 2 10 64] [--threads 1 2] [--profile]

All contenders of a row run in turn (A B C A B C ...) in one process, so ratios do not depend on what else the machine does
in that minute. Shares are the matrix products' operations / time / rate of a large batched product, measured in the same turns.
"""

import argparse
import gc
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import lightning as L
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from benchmarks import algorithm_step
from benchmarks.baseline import PlainStep
from benchmarks.step_data import ACTION, OBSERVATION, ROWS, Data
from benchmarks.step_report import goals, processor, table
from edp_lightning.algorithms.entropy_diffusion import EntropyDiffusionPolicy
from edp_lightning.algorithms.noise import NoiseSource
from edp_lightning.algorithms.optimization import apply_gradients, loss_gradients
from edp_lightning.algorithms.registry import built_in
from edp_lightning.callbacks.forced import FORCED_CALLBACKS
from edp_lightning.callbacks.target_update import move_towards

HIDDEN, STEPS_OF_CHAIN, BACKUP = 256, 5, 10

Clock = Callable[[], float]


def product_flops(num_critics: int, backup: int) -> float:
    """Return floating-point operations of the matrix products that one gradient step cannot do without."""
    first, rest = 2 * (OBSERVATION + ACTION) * HIDDEN, 2 * (2 * HIDDEN * HIDDEN + HIDDEN)
    critic = num_critics * (first + rest)
    actor = 2 * ((ACTION + 16 + OBSERVATION) * HIDDEN + 2 * HIDDEN * HIDDEN + HIDDEN * ACTION)
    targets = backup * (critic + STEPS_OF_CHAIN * actor)
    critic_step = 2 * critic + num_critics * rest  # forward, weights' gradients, inputs' gradients but for the first layer
    actor_step = critic + num_critics * (rest + 2 * ACTION * HIDDEN) + 3 * actor
    return float(ROWS * (targets + critic_step + actor_step))


def build(num_critics: int, backup: int, precision: str, compiled: bool) -> EntropyDiffusionPolicy:
    torch.manual_seed(0)
    return EntropyDiffusionPolicy(
        observation_dim=OBSERVATION,
        action_dim=ACTION,
        hidden_dims=[HIDDEN] * 3,
        num_critics=num_critics,
        eta=2.0,
        max_q_backup=backup > 1,
        num_backup_actions=BACKUP,
        hidden_precision=precision,  # type: ignore[arg-type]
        compile=compiled,
    )


def bare_step(module: EntropyDiffusionPolicy, data: Data, backup: int, device: torch.device) -> Callable[[], None]:
    """Return a function that takes one gradient step of ``module`` without Lightning."""
    module.configure_model()
    module.to(device)
    module.prepare_step(compiled=module.hparams["compile"])
    critic_optimizer, actor_optimizer = module.configure_optimizers()
    source = NoiseSource(0, STEPS_OF_CHAIN, ACTION, backup, 1, device)
    loader = data.loader()
    moves = [
        [list(network.parameters()) for network in pair]
        for pair in ((module.target_critic, module.critic), (module.ema_actor, module.actor))
    ]
    count = 0

    def step() -> None:
        nonlocal count
        batch, noise = loader.batch(count), source.draw(count, ROWS)
        critic = module.objectives.critic_terms(batch, noise)
        apply_gradients(critic_optimizer, module.critic, critic.gradients, 4.0)
        loss = module.actor_loss(module.objectives.actor_terms(batch, noise))
        apply_gradients(actor_optimizer, module.actor, loss_gradients(loss, module.actor), 4.0)
        for target, online in moves:
            move_towards(target, online, 0.005)
        count += 1

    return step


def measure(arguments: argparse.Namespace, num_critics: int, backup: int, precision: str) -> dict[str, Any]:
    """Return milliseconds per step of each contender (medians over rounds) and what follows from them."""
    device = torch.device(arguments.device)
    clock: Clock = time.process_time if arguments.clock == "cpu" else time.perf_counter
    times: dict[str, list[float]] = {"plain": [], "bare": [], "trainer": [], "product": []}
    rounds = arguments.rounds

    def synchronize() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    def timed(name: str, function: Callable[[], Any], repeat: int) -> None:
        synchronize()
        start = clock()
        for _ in range(repeat):
            function()
        synchronize()
        times[name].append((clock() - start) / repeat * 1e3)

    def turns() -> Iterator[int]:
        for _ in range(3):  # compilation, first touches of memory
            bare()
            yield 0
        plain()
        start = clock()
        bare()
        synchronize()
        repeat = max(1, min(200, int(arguments.seconds / (clock() - start))))
        for _ in range(rounds):
            timed("plain", plain, max(1, repeat // 5))
            timed("product", lambda: torch.bmm(left, right), 40)
            timed("bare", bare, repeat)
            synchronize()
            start = clock()
            yield from range(repeat)
            synchronize()
            times["trainer"].append((clock() - start) / repeat * 1e3)

    data = Data(device, turns)
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    side = 256 if device.type == "cpu" else 4096
    left, right = (torch.randn(8, side, side, device=device).to(dtype) for _ in range(2))
    reference = PlainStep(OBSERVATION, ACTION, num_critics, HIDDEN, backup, device)
    source, loader, count = NoiseSource(0, STEPS_OF_CHAIN, ACTION, backup, 1, device), data.loader(), [0]

    def plain() -> None:
        reference.step(loader.batch(count[0]), source.draw(count[0], ROWS))
        count[0] += 1

    bare = bare_step(build(num_critics, backup, precision, arguments.compile), data, backup, device)
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer = L.Trainer(
            accelerator="gpu" if device.type == "cuda" else "cpu",
            devices=1,
            max_epochs=1,
            log_every_n_steps=100,
            limit_val_batches=0,
            logger=TensorBoardLogger(folder),
            callbacks=[callback() for callback in FORCED_CALLBACKS.values()],
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=folder,
        )
        trainer.fit(build(num_critics, backup, precision, arguments.compile), datamodule=data)
    median = {name: statistics.median(values) for name, values in times.items()}
    rate = 2 * 8 * side**3 / (median["product"] * 1e-3)
    overhead = statistics.median(t - b for t, b in zip(times["trainer"], times["bare"], strict=True))
    row = {
        "threads": torch.get_num_threads(),
        "critics": num_critics,
        "max_q": backup > 1,
        "precision": precision,
        "plain_ms": median["plain"],
        "bare_ms": median["bare"],
        "trainer_ms": median["trainer"],
        "ratio": statistics.median(p / t for p, t in zip(times["plain"], times["trainer"], strict=True)),
        "overhead_ms": overhead,
        "product_rate_gflops": rate / 1e9,
        "share": product_flops(num_critics, backup) / (median["bare"] * 1e-3) / rate,
    }
    del trainer
    gc.collect()
    torch._dynamo.reset()
    return row


def profile(arguments: argparse.Namespace) -> None:
    """Print where the time of a bare step goes, with the most critics and the last precision that were asked for."""
    from torch.profiler import ProfilerActivity

    device = torch.device(arguments.device)
    activities = [ProfilerActivity.CPU] + ([ProfilerActivity.CUDA] if device.type == "cuda" else [])
    for backup in (1, BACKUP):
        module = build(max(arguments.critics), backup, arguments.precisions[-1], arguments.compile)
        step = bare_step(module, Data(device, lambda: iter(())), backup, device)
        for _ in range(4):
            step()
        with torch.profiler.profile(activities=activities) as trace:
            for _ in range(3):
                step()
        key = "self_device_time_total" if device.type == "cuda" else "self_cpu_time_total"
        row = f"{max(arguments.critics)} critics, {arguments.precisions[-1]}, max-Q {'on' if backup > 1 else 'off'}"
        print(f"profile of 3 steps, {row}")
        print(trace.key_averages().table(sort_by=key, row_limit=18, max_name_column_width=44))
        if device.type != "cuda":
            continue
        waits = {"cudaStreamSynchronize", "cudaDeviceSynchronize", "aten::_local_scalar_dense"}
        print("waits for the device in 3 steps:", sum(event.count for event in trace.key_averages() if event.key in waits))


def parse(argv: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one row, two critics, within 50 s")
    parser.add_argument("--algorithm", choices=sorted(built_in()), help="another algorithm than the default one")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--critics", type=int, nargs="+", default=[2, 10, 64])
    parser.add_argument("--max_q", nargs="+", choices=["off", "on"], default=["off", "on"])
    parser.add_argument("--precisions", nargs="+", choices=["float32", "bfloat16"], default=["float32", "bfloat16"])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.5, help="length of one contender's turn")
    parser.add_argument("--eager", dest="compile", action="store_false", help="ours without torch.compile")
    parser.add_argument("--clock", choices=["wall", "cpu"], default="wall", help="cpu: for a busy machine, one thread only")
    parser.add_argument("--profile", action="store_true", help="print where the time of a step goes, and stop")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    if arguments.quick:
        arguments.critics, arguments.max_q, arguments.threads = [2], ["off"], arguments.threads[:1]
        arguments.precisions = ["float32"]  # bfloat16 takes minutes on a processor that imitates it
        arguments.rounds, arguments.seconds = 3, 0.2
    return arguments


def work(arguments: argparse.Namespace) -> None:
    """Measure all rows of one number of threads in this process, one JSON line each."""
    torch.set_num_threads(arguments.threads[0])
    torch.set_float32_matmul_precision("high" if arguments.device == "cuda" else "highest")
    if arguments.profile:
        profile(arguments)
        return
    for num_critics in arguments.critics:
        for max_q in arguments.max_q:
            for precision in arguments.precisions:
                row = measure(arguments, num_critics, BACKUP if max_q == "on" else 1, precision)
                print("row " + json.dumps(row), flush=True)


def main() -> None:
    argv = sys.argv[1:]
    arguments = parse(argv)
    if arguments.worker:
        work(arguments)
        return
    if arguments.algorithm:
        algorithm_step.report(arguments)
        return
    rows = []
    for threads in arguments.threads:  # a process each: compiled code is made for a number of threads
        command = [sys.executable, __file__, *argv, "--threads", str(threads), "--worker"]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as worker:
            assert worker.stdout is not None
            for text in worker.stdout:
                if text.startswith("row "):
                    rows.append(json.loads(text[4:]))
                    print(table(rows[-1:]).splitlines()[-1], flush=True)
                elif arguments.profile:
                    print(text, end="")
        if worker.returncode:
            sys.exit(f"the measurement with {threads} threads ended with status {worker.returncode}")
    if arguments.profile:
        return
    gpu = f", {torch.cuda.get_device_name()}" if arguments.device == "cuda" else ""
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    print(
        f"\n{date.today()}, {processor()}, {cpus} cores usable{gpu}, {torch.backends.cpu.get_cpu_capability()}, "
        f"torch {torch.__version__}, lightning {L.__version__}, Python {platform.python_version()}, clock {arguments.clock}\n"
        f"python benchmarks/step.py {' '.join(argv)}\n"
    )
    print(table(rows))
    for text in goals(rows, arguments.device):
        print(text)


if __name__ == "__main__":
    main()
