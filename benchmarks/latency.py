"""Time of one decision on one thread: PyTorch eager, compiled, and the exported ONNX file in onnxruntime.

    taskset -c 0 python benchmarks/latency.py
    python benchmarks/latency.py --quick

One observation of AntMaze's size (29 numbers, actions of 8), 50 candidates, T = 5, three hidden layers of 256, float32. The
contenders take turns of some decisions each, so whatever else the machine does hits all of them, and the first two of a turn,
which bring the weights back into the cache, do not count. *products*: the decision's matrix products alone, in
onnxruntime, one after the other.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import lightning as L
import numpy as np
import torch

from edp_lightning.algorithms.entropy_diffusion import EntropyDiffusionPolicy
from edp_lightning.command_line.info import processor
from edp_lightning.evaluation.loaded_policy import load_policy
from edp_lightning.export.command import export
from edp_lightning.export.runtime import Policy

OBSERVATION_DIM, ACTION_DIM = 29, 8
TURN = 10
"""Decisions of a turn."""

GOALS = {8: 2.0, 64: 8.0}
"""Critics -> milliseconds at the median that a robot at 100 Hz has room for."""


def checkpoint(folder: Path, critics: int, compiled: bool) -> Path:
    """Return an untrained policy's file: its decisions take as long as those of a trained one."""
    torch.manual_seed(0)
    module = EntropyDiffusionPolicy(OBSERVATION_DIM, ACTION_DIM, num_critics=critics, compile=compiled)
    module.set_scales(-1.0, 1.0)
    trainer = L.Trainer(accelerator="cpu", logger=False, enable_progress_bar=False, barebones=True)
    trainer.strategy.connect(module)
    path = folder / f"M{critics}{'_compiled' if compiled else ''}.ckpt"
    trainer.save_checkpoint(path)
    return path


def products(critics: int) -> Callable[[], object]:
    """Return a function that runs the decision's matrix products and nothing else."""
    import onnx
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(0)
    nodes, weights, ends = [], [], []

    def network(inputs: int, outputs: int) -> None:
        name = f"x{inputs}"
        for a, b in zip((inputs, 256, 256, 256), (256, 256, 256, outputs), strict=True):
            key = f"n{len(nodes)}"
            weights.append(numpy_helper.from_array(rng.standard_normal((a, b)).astype(np.float32) / 16, f"w{key}"))
            nodes.append(helper.make_node("Gemm", [name, f"w{key}"], [key]))
            name = key
        ends.append(name)

    for _ in range(5):
        network(ACTION_DIM, ACTION_DIM)
    for _ in range(critics):
        network(ACTION_DIM, 1)
    start = helper.make_tensor_value_info(f"x{ACTION_DIM}", TensorProto.FLOAT, [50, ACTION_DIM])
    outputs = [helper.make_tensor_value_info(end, TensorProto.FLOAT, None) for end in ends]
    graph = helper.make_graph(nodes, "products", [start], outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    assert onnx.__version__
    actions = rng.standard_normal((50, ACTION_DIM)).astype(np.float32)
    return lambda: session.run(None, {f"x{ACTION_DIM}": actions})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--decisions", type=int, default=300, help="of each contender")
    options = parser.parse_args()
    decisions = 50 if options.quick else options.decisions
    torch.set_num_threads(1)
    print(f"{processor()}, 1 thread of {len(os.sched_getaffinity(0))}, torch {torch.__version__}, 50 candidates")
    print(f"{'critics':>7} {'':>9} {'p50 ms':>8} {'p99 ms':>8} {'least':>8}")
    observation = np.random.default_rng(0).standard_normal(OBSERVATION_DIM).astype(np.float32)
    for critics, goal in GOALS.items():
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            plain = checkpoint(folder, critics, compiled=False)
            policies = {"eager": load_policy(plain), "compiled": load_policy(checkpoint(folder, critics, compiled=True))}
            contenders: dict[str, Callable[[], object]] = {
                label: lambda policy=policy: policy.act(observation) for label, policy in policies.items()
            }
            exported = Policy(export(str(plain), "onnx"))
            contenders |= {"onnx": lambda policy=exported: policy.act(observation), "products": products(critics)}
            times: dict[str, list[float]] = {label: [] for label in contenders}
            for turn in range(decisions // TURN + 1):
                for label, contender in contenders.items():
                    for index in range(-2, TURN):
                        start = time.perf_counter()
                        contender()
                        if turn > 0 and index >= 0:  # the first turn compiles
                            times[label].append((time.perf_counter() - start) * 1e3)
        for label, values in times.items():
            half, last = statistics.median(values), float(np.quantile(values, 0.99))
            print(f"{critics:7} {label:>9} {half:8.2f} {last:8.2f} {min(values):8.2f}")
        half = statistics.median(times["onnx"])
        print(f"goal latency_onnx_M{critics}_p50_ms {half:.2f} <{goal:g} {'met' if half < goal else 'missed'}")


if __name__ == "__main__":
    main()
