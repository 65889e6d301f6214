"""Runs overlays of configs/ablations/ on one task with several seeds, through the command line, and prints the scores.

One run after the other, on one thread. A run that is finished is not repeated, one that was killed goes on from its last
checkpoint, so the script may be stopped and called again, also with more seeds.

    python benchmarks/ablations.py [--quick] [--base configs/toy.yaml] [--seeds 3] [--only entropy-path ...] [-- OPTIONS OF fit]
"""

import argparse
import io
import json
import math
import sys
import tempfile
import time
from contextlib import redirect_stdout
from pathlib import Path

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from edp_lightning.cli import main as main_of_package

ROOT = Path(__file__).parents[1]
OVERLAYS = sorted(path.stem for path in (ROOT / "configs" / "ablations").glob("*.yaml"))
COMPARISONS = (
    ("noise-matching", "likelihood-unclipped"),
    ("likelihood", "likelihood-unclipped"),
    ("entropy-path", "entropy-none"),
    ("entropy-path", "entropy-reference"),
)
"""Is the first better than the second? Both from the same base, seed by seed."""


def run(overlay: str, seed: int, args: argparse.Namespace, options: list[str]) -> dict[str, float]:
    """Train one variant, unless that is done, and return its last and best evaluation score and its seconds."""
    record = args.output / "finished" / f"{overlay}-seed{seed}.json"
    if record.exists():
        return json.loads(record.read_text())
    folders = list(args.output.glob(f"*/{overlay}-seed{seed}"))
    resume = ["--ckpt_path=last"] if any((folder / "checkpoints" / "last.ckpt").exists() for folder in folders) else []
    command = ["fit", "--config", str(args.base)]
    command += ["--config", str(ROOT / "configs" / "ablations" / f"{overlay}.yaml"), f"--run_name={overlay}"]
    command += [f"--output={args.output}", f"--seed_everything={seed}", "--trainer.accelerator=cpu", *options, *resume]
    start = time.perf_counter()
    with redirect_stdout(io.StringIO()):
        main_of_package([*command, "--progress_bar.refresh_rate=0"])
    (folder,) = args.output.glob(f"*/{overlay}-seed{seed}")
    scores = evaluation_scores(folder)
    result = {"last": scores[-1], "best": max(scores), "seconds": time.perf_counter() - start}
    record.parent.mkdir(parents=True, exist_ok=True)
    record.write_text(json.dumps(result))
    return result


def evaluation_scores(folder: Path) -> list[float]:
    """Return the scores of a run's evaluations in the order of their steps."""
    scores = {}
    for file in sorted(folder.glob("events*")):
        events = EventAccumulator(str(file), size_guidance={"scalars": 0})
        events.Reload()
        if "evaluation/score" in events.Tags()["scalars"]:
            scores |= {e.step: e.value for e in events.Scalars("evaluation/score")}
    return [scores[step] for step in sorted(scores)]


def interval(values: list[float]) -> tuple[float, float]:
    """Return mean and half-width of the 95 % confidence interval (Student's t; nan for a single value)."""
    sample = torch.tensor(values, dtype=torch.float64)
    if len(sample) < 2:
        return float(sample.mean()), math.nan
    quantile = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}
    return float(sample.mean()), quantile.get(len(sample), 2.2) * float(sample.std()) / math.sqrt(len(sample))


def report(results: dict[str, dict[int, dict[str, float]]]) -> None:
    """Print the table and what it says about the comparisons."""
    print("| variant | seeds | last score | best score |")
    print("|---|---|---|---|")
    for overlay, by_seed in results.items():
        cells = ["{:.3f} ± {:.3f}".format(*interval([r[kind] for r in by_seed.values()])) for kind in ("last", "best")]
        print(f"| {overlay} | {len(by_seed)} | {' | '.join(cells)} |")
    print()
    for better, worse in COMPARISONS:
        seeds = sorted(results.get(better, {}).keys() & results.get(worse, {}).keys())
        if not seeds:
            continue
        mean, half = interval([results[better][seed]["last"] - results[worse][seed]["last"] for seed in seeds])
        met = "met" if mean - half > 0 else "missed"  # nan, from a single seed, is no evidence
        print(f"goal {better}_minus_{worse}_last {mean:.3f}±{half:.3f} >0 {met}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="two variants, one seed, 20 steps: does it run")
    parser.add_argument("--base", type=Path, default=ROOT / "configs" / "toy.yaml")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=OVERLAYS, default=OVERLAYS, metavar="OVERLAY")
    parser.add_argument("--output", type=Path, default=Path("runs/ablations"))
    parser.add_argument("--stop-after", type=float, default=math.inf, help="start no further run after so many minutes")
    arguments = sys.argv[1:]
    split = arguments.index("--") if "--" in arguments else len(arguments)
    args, options = parser.parse_args(arguments[:split]), arguments[split + 1 :]
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        if args.quick:
            args.only, args.seeds, args.output = ["entropy-none", "entropy-path"], 1, Path(folder)
            options = ["--trainer.max_steps=20", "--data.steps_per_epoch=20", "--evaluation.num_episodes=5"]
        args.output = args.output.resolve()
        results: dict[str, dict[int, dict[str, float]]] = {}
        start = time.perf_counter()
        for seed in range(args.seeds):  # seed by seed: whenever it is stopped, all variants have as many
            for overlay in args.only:
                finished = (args.output / "finished" / f"{overlay}-seed{seed}.json").exists()
                if not finished and time.perf_counter() - start > 60 * args.stop_after:
                    continue
                results.setdefault(overlay, {})[seed] = run(overlay, seed, args, options)
                print(f"{overlay} seed {seed}: {results[overlay][seed]}", file=sys.stderr)
        report(results)


if __name__ == "__main__":
    main()
