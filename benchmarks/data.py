"""From a Minari file to the table of transitions, the first time and from the cache; and a table larger than memory.

    python benchmarks/data.py            # a million AntMaze-like transitions
    python benchmarks/data.py --quick    # 100,000
    python benchmarks/data.py --large    # also trains from a table of 30 GB, virtual size

Each measurement runs in a process of its own, so that its peak memory is its own.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HORIZON = 700
LARGE_BYTES = 30 << 30


def write_set(steps: int) -> None:
    """Write an AntMaze-like set: Dict observations 27 + 2 + 2, 8 actions, stored as ``collect`` stores it."""
    import numpy as np

    from edp_lightning.collect.recorder import RecordedEpisode
    from edp_lightning.collect.tasks import task_of
    from edp_lightning.collect.writer import write_dataset

    rng = np.random.default_rng(0)
    task = task_of("antmaze-umaze-diverse")
    episodes = []
    for start in range(0, steps, HORIZON):
        count = min(HORIZON, steps - start)
        positions = rng.uniform(-6, 6, (count + 1, 2))
        observations = {
            "observation": rng.normal(size=(count + 1, 27)),
            "achieved_goal": positions,
            "desired_goal": rng.uniform(-6, 6, (count + 1, 2)),
        }
        ends = np.zeros(count, dtype=np.bool_)
        truncations = ends.copy()
        truncations[-1] = True
        infos = {"goal": observations["desired_goal"], "success": np.zeros(count + 1, dtype=np.bool_)}
        actions = rng.uniform(-1, 1, (count, 8)).astype(np.float32)
        episodes.append(RecordedEpisode(0, observations, actions, np.zeros(count), ends, truncations, infos))
    specs = task.collection_spec(), task.evaluation_spec()
    write_dataset("benchmark/antmaze-v0", episodes, *specs, "noise", "Random numbers in the shape of AntMaze.")


def resident(field: str) -> float:
    """Return a field of /proc/self/status in MB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) / 1000
    raise SystemExit("peak memory is read from /proc, which only Linux has")


def set_up(cache: bool) -> None:
    """Open the set as a run does; print seconds, extra peak memory in MB and the table's size in MB."""
    import warnings

    from edp_lightning.data.datamodule import OfflineDataModule
    from edp_lightning.data.sources.minari import open_set

    warnings.filterwarnings("ignore")
    data = OfflineDataModule(
        "benchmark/antmaze-v0", view="d4rl", terminals="reward", reward_transform="affine", reward_shift=-0.5, cache=cache
    )
    open_set("benchmark/antmaze-v0")  # imports of the environments' libraries are not the table's time
    before = resident("VmRSS")
    start = time.perf_counter()
    data.setup("validate")
    seconds = time.perf_counter() - start
    print("result", seconds, resident("VmHWM") - before, data.table.rows.numel() * 4e-6)


def batches(large: bool) -> None:
    """Print microseconds per batch from memory and from a mapped file, then resident MB of a larger file's training."""
    import torch

    from edp_lightning.data.loader import TransitionLoader
    from edp_lightning.data.tables.table import TransitionTable, widths
    from edp_lightning.runs.cache_folder import cache_folder

    torch.set_num_threads(1)
    (path,) = (cache_folder() / "tables").glob("*.table")
    width = sum(widths(29, 8))
    rows = path.stat().st_size // (4 * width)
    mapped = TransitionTable.from_file(str(path), rows, 29, 8)
    tables = {"memory": TransitionTable(mapped.rows.clone(), 29, 8), "mapped": mapped}
    times: dict[str, list[float]] = {name: [] for name in tables}
    for _ in range(7):
        for name, table in tables.items():
            loader = TransitionLoader(table, 256, 1000, seed=0)
            start = time.perf_counter()
            for position in range(500):
                loader.batch(position)
            times[name].append((time.perf_counter() - start) / 500 * 1e6)
    print("result", *(sorted(values)[3] for values in times.values()))
    if not large:
        return
    sparse = path.with_name("large")
    with sparse.open("wb") as file:
        file.truncate(LARGE_BYTES)
    print("large", *train_on(sparse, LARGE_BYTES // (4 * width)))


def train_on(path: Path, rows: int, steps: int = 1000) -> tuple[float, float, float]:
    """Train a small policy on a mapped table; return its GB, resident MB at most, and milliseconds per step."""
    import lightning as L
    import torch

    from edp_lightning.algorithms.entropy_diffusion import EntropyDiffusionPolicy
    from edp_lightning.data.loader import TransitionLoader
    from edp_lightning.data.tables.table import TransitionTable

    class Peak(L.Callback):
        largest = 0.0

        def on_train_batch_end(self, trainer: L.Trainer, *args: object) -> None:
            if trainer.global_step % 50 == 0:
                self.largest = max(self.largest, resident("VmRSS"))

    table, peak = TransitionTable.from_file(str(path), rows, 29, 8), Peak()
    trainer = L.Trainer(
        accelerator="cpu", max_steps=steps, logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[peak], use_distributed_sampler=False,
    )  # fmt: skip
    module = EntropyDiffusionPolicy(29, 8, hidden_dims=[32, 32], num_critics=2, num_candidates=1)
    module.set_scales(-1.0, 1.0)
    torch.manual_seed(0)
    start = time.perf_counter()
    trainer.fit(module, TransitionLoader(table, 256, steps, seed=0))
    return rows * table.rows.shape[1] * 4e-9, peak.largest, (time.perf_counter() - start) / steps * 1e3


def child(folder: str, *arguments: str) -> list[list[str]]:
    """Run a measurement in a process of its own; return the words of its result lines."""
    environment = os.environ | {
        "MINARI_DATASETS_PATH": f"{folder}/minari", "EDP_LIGHTNING_CACHE": f"{folder}/cache",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")]),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, __file__, *arguments], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return [line.split()[1:] for line in done.stdout.splitlines() if line.startswith(("result", "large"))]


def goal(name: str, value: float, target: float, unit: str) -> None:
    print(f"goal {name} {value:.3g}{unit} <={target:g}{unit} {'met' if value <= target else 'missed'}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--large", action="store_true")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", help="where the set, the cache and the sparse file go; default: a temporary folder")
    parser.add_argument("--child", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        {
            "write": lambda steps: write_set(int(steps)),
            "set_up": lambda cache: set_up(cache == "cache"),
            "batches": lambda large: batches(large == "large"),
        }[options.child[0]](*options.child[1:])
        return
    steps, repeats = (100_000, 1) if options.quick else (1_000_000, options.repeats)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        child(folder, "--child", "write", str(steps))
        size = sum(file.stat().st_size for file in Path(folder).rglob("main_data.hdf5")) / 1e6
        print(f"{steps} transitions, file {size:.0f} MB, median of {repeats}")
        found: dict[str, list[list[float]]] = {"first time": [], "from the cache": [], "without cache": []}
        for _ in range(repeats):
            for path in (Path(folder) / "cache").glob("*/*"):
                path.unlink()
            for name, cache in zip(found, ("cache", "cache", "none"), strict=True):
                ((*numbers,),) = child(folder, "--child", "set_up", cache)
                found[name].append([float(number) for number in numbers])
        for name, results in found.items():
            seconds, extra, table = (sorted(column)[len(results) // 2] for column in zip(*results, strict=True))
            print(
                f"{name:15} {seconds:6.2f} s   peak memory {extra:5.0f} MB = {extra / table:.2f} x the table of {table:.0f} MB"
            )
        (memory, mapped), *large = child(folder, "--child", "batches", "large" if options.large else "small")
        print(f"a batch of 256: {float(memory):.0f} us from memory, {float(mapped):.0f} us from the mapped file")
        for virtual, peak, milliseconds in large:
            print(
                f"table of {float(virtual):.0f} GB: {float(peak):.0f} MB resident at most, {float(milliseconds):.1f} ms a step"
            )
    first, cached = (sorted(r[0] for r in found[name])[repeats // 2] for name in ("first time", "from the cache"))
    share = max(r[1] / r[2] for name in ("first time", "without cache") for r in found[name])
    scale = steps / 1_000_000
    goal("data_first_time", first, 5 * scale, "s")
    goal("data_from_cache", cached, 0.5 * scale if not options.quick else 0.5, "s")
    goal("data_peak_memory", share, 1.3, "x")
    for _, peak, _ in large:
        goal("data_larger_than_memory_resident", float(peak), 4000, "MB")


if __name__ == "__main__":
    main()
