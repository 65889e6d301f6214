"""Everything that a GPU has to prove, in one script: at most 8 minutes on an H100, no network.

    python benchmarks/gpu_check.py                       # all parts, on a GPU; on a CPU (a) and a shrunken (c)
    python benchmarks/gpu_check.py --parts a c --seconds 0.5
    pip download -d wheels $(python benchmarks/gpu_check.py --wheels)      # beforehand, for a machine without a network

Parts: (a) versions and device; (b) the tests with the marker ``gpu``; (c) times of a step of the released code's arithmetic
(baseline), this package eager, compiled, and captured as a CUDA graph; (d) 20,000 steps through the command line, killed,
resumed, and two deterministic runs; (e) CPU and GPU losses of the same steps; (f) memory.
"""

import argparse
import platform
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

NEEDED = ("lightning", "torchmetrics", "jsonargparse", "omegaconf", "tensorboard", "minari", "h5py", "gymnasium")
NEEDED += ("gymnasium-robotics", "mujoco", "rich", "tqdm")
"""What a run needs beside torch and numpy; the versions are those of ``constraints.txt``."""

BUDGET = 460.0
"""Seconds after which no further part or row begins."""


def wheels() -> list[str]:
    """Return the packages a bare machine with torch lacks, as arguments of pip."""
    pins = dict(re.findall(r"^([\w-]+)==([^\s;]+)", (ROOT / "constraints.txt").read_text(), re.MULTILINE))
    return [*(f"{name}=={pins[name]}" for name in NEEDED), "pytest>=8", "hypothesis>=6.100"]


def goal(name: str, value: float, target: float, at_most: bool) -> None:
    met = value <= target if at_most else value >= target
    print(f"goal {name} {value:.3g} {target:g} {'met' if met else 'missed'}", flush=True)


def versions() -> None:
    import lightning
    import torch

    print(f"(a) Python {platform.python_version()}, torch {torch.__version__}, lightning {lightning.__version__}")
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        capability = ".".join(map(str, torch.cuda.get_device_capability()))
        print(f"    {properties.name}, {properties.total_memory / 2**30:.0f} GiB, compute capability {capability}", end=", ")
        print(f"CUDA {torch.version.cuda}")
    else:
        from benchmarks.step_report import processor

        print(f"    no GPU; {processor()}")


def marked_tests() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider", "tests"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=150)
    print("(b)", *done.stdout.splitlines()[-25:], sep="\n    ")


def step_times(device: Any, seconds: float, until: float) -> list[dict[str, Any]]:
    from benchmarks.gpu_steps import CONTENDERS, Row, measure

    on_gpu = device.type == "cuda"
    names = CONTENDERS if on_gpu else ("baseline", "eager", "captured")
    rows = [Row(m, q, p) for m in (64, 10, 2) for q in (True, False) for p in ("bf16", "tf32")] if on_gpu else []
    if not on_gpu:
        rows, seconds = [Row(2, False, "tf32")], 0.1
        print("(c) shrunken, on a CPU: float32 is no TF32 there, nothing is compiled, and the captured form is no graph")
    found = []
    heads = [*(f"{name} ms" for name in names), *(f"waits {name}" for name in names)]
    print(f"(c) | critics | max-Q | products | {' | '.join(heads)} | share of rate (TFLOP/s) |", flush=True)
    for row in rows:
        if time.monotonic() > until:
            print(f"    left out for lack of time: {row}")
            continue
        r = measure(row, device, seconds, 3 if on_gpu else 1, names)
        cells = [*(f"{r['ms'][name]:.2f}" for name in names), *(str(r["waits"][name]) for name in names)]
        print(f"    | {row.critics} | {'on' if row.max_q else 'off'} | {row.precision} | {' | '.join(cells)} ", end="")
        print(f"| {r['share']:.0%} of {r['rate_tflops']:.3g} |", flush=True)
        found.append(r)
    return found


def arrays(path: Path) -> None:
    """Write episodes of AntMaze's widths."""
    import numpy as np

    rng, rows = np.random.default_rng(0), 200_000
    ends = np.arange(1, rows + 1) % 500 == 0
    np.savez(
        path,
        observations=rng.normal(size=(rows, 29)).astype(np.float32),
        actions=rng.uniform(-1, 1, (rows, 8)).astype(np.float32),
        rewards=(rng.random(rows) < 0.01).astype(np.float32),
        terminated=np.zeros(rows, dtype=bool),
        truncated=ends,
    )


def command_line(folder: Path, steps: int) -> None:
    """Train through the command line, kill, resume; then twice deterministically."""
    import torch

    from edp_lightning.runs.checkpoint_io import read_checkpoint

    arrays(folder / "rows.npz")
    base = [sys.executable, "-m", "edp_lightning", "fit", "--config", "configs/antmaze.yaml", "--config", "configs/gpu.yaml"]
    base += [f"--data.dataset=npz:{folder / 'rows.npz'}", "--data.view=null", "--data.collect_steps=null", "--data.cache=false"]
    base += ["--data.terminals=env", f"--output={folder}", "--trainer.enable_progress_bar=false"]
    base += ["--trainer.log_every_n_steps=1000", "--last_checkpoint.min_seconds=2"]

    def last(name: str) -> Path:
        return next(iter(folder.glob(f"*/{name}-seed0/checkpoints/last.ckpt")), folder / "none")

    start = time.monotonic()
    process = subprocess.Popen([*base, "--run_name=long", f"--trainer.max_steps={steps}"], cwd=ROOT)
    while process.poll() is None and not (last("long").exists() and time.monotonic() - start > 30):
        time.sleep(0.2)
    process.kill()
    process.wait()
    reached = read_checkpoint(last("long"))["global_step"]
    print(f"(d) killed after {time.monotonic() - start:.0f} s, last checkpoint at step {reached}", flush=True)
    start = time.monotonic()
    resume = [*base, "--run_name=long", f"--trainer.max_steps={steps}", "--ckpt_path=last"]
    status = subprocess.run(resume, cwd=ROOT, timeout=200).returncode
    end = read_checkpoint(last("long"))["global_step"]
    seconds = time.monotonic() - start
    print(
        f"    resumed: status {status}, step {end}, {(end - reached) / seconds:.0f} steps a second with the start", flush=True
    )
    states = []
    for name in ("one", "two"):
        options = [f"--run_name={name}", "--trainer.max_steps=300", "--trainer.deterministic=true", "--model.compile=false"]
        status = subprocess.run([*base, *options], cwd=ROOT, timeout=120).returncode
        states.append(read_checkpoint(last(name))["state_dict"] if status == 0 else {})
    same = bool(states[0]) and all(torch.equal(value, states[1][name]) for name, value in states[0].items())
    goal("gpu_deterministic_runs_differ", float(not same), 0, at_most=True)


def side_by_side(device: Any) -> None:
    import torch

    from benchmarks.gpu_steps import Row, losses

    torch.set_float32_matmul_precision("highest")
    row = Row(10, False, "tf32")
    ours, theirs = losses(device, True, 200, row), losses(torch.device("cpu"), False, 200, row)
    for count in (0, 9, 49, 199):
        gap = {name: abs(value / theirs[count][name] - 1) for name, value in ours[count].items()}
        print(f"(e) step {count + 1}: relative difference", {name: f"{value:.1e}" for name, value in gap.items()})


def memory(device: Any) -> None:
    import torch

    from benchmarks.gpu_steps import Row, contender
    from benchmarks.step_data import Data

    torch.cuda.reset_peak_memory_stats()
    step = contender("captured", Row(64, True, "bf16"), Data(device, lambda: iter(())), device)
    for _ in range(10):
        step()
    torch.cuda.synchronize()
    peak, reserved = torch.cuda.max_memory_allocated(), torch.cuda.memory_reserved()
    print(f"(f) captured, 64 critics, max-Q, bf16: {peak / 2**30:.2f} GiB at most, {reserved / 2**30:.2f} GiB reserved")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--wheels", action="store_true", help="print the packages it needs as arguments of pip, and stop")
    parser.add_argument("--parts", nargs="+", choices=list("abcdef"), default=list("abcdef"))
    parser.add_argument("--seconds", type=float, default=0.3, help="length of one contender's turn")
    parser.add_argument("--steps", type=int, default=20_000, help="steps of part (d)")
    parser.add_argument("--quick", action="store_true", help="parts a and c on the CPU, also where there is a GPU")
    arguments = parser.parse_args()
    if arguments.wheels:
        print(*wheels())
        return
    import torch

    started = time.monotonic()
    torch.set_float32_matmul_precision("high")
    device = torch.device("cuda", 0) if torch.cuda.is_available() and not arguments.quick else torch.device("cpu")
    parts = [part for part in arguments.parts if device.type == "cuda" or part in "ac"]
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        actions = {
            "a": versions,
            "d": lambda: command_line(Path(folder), arguments.steps),
            "e": lambda: side_by_side(device),
            "f": lambda: memory(device),
            "b": marked_tests,
            "c": lambda: rows.extend(step_times(device, arguments.seconds, started + BUDGET)),
        }
        for part, action in actions.items():
            if part not in parts or time.monotonic() - started > BUDGET:
                continue
            try:
                action()
            except Exception as error:  # the other parts are worth their time all the same
                print(f"({part}) failed: {error!r}", flush=True)
    print(f"{time.monotonic() - started:.0f} s")
    if device.type != "cuda":
        print("not measured on a GPU: none here")
        goal("cpu_waits_captured", sum(row["waits"]["captured"] for row in rows), 0, at_most=True)
        return
    for row in rows:
        if (row["critics"], row["max_q"], row["precision"]) == (64, True, "bf16"):
            goal("gpu_M64_max_q_ratio", row["ms"]["baseline"] / row["ms"]["captured"], 10, at_most=False)
            goal("gpu_ms_per_step", row["ms"]["captured"], 1.2, at_most=True)
            goal("gpu_product_share", row["share"], 0.5, at_most=False)
            goal("gpu_syncs_per_step", row["waits"]["captured"], 0, at_most=True)


if __name__ == "__main__":
    main()
