"""The ``toy`` command: figure 3 of the slides on arXiv 2402.04080, from training to picture."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from edp_lightning.data.datamodule import OfflineDataModule
from edp_lightning.errors import UserError
from edp_lightning.evaluation.loaded_policy import load_policy
from edp_lightning.evaluation.results import versions
from edp_lightning.figures.drawing import new_figure
from edp_lightning.figures.runs import read_curves
from edp_lightning.figures.toy_figure import OPTIMUM, ToyResults, draw_toy
from edp_lightning.figures.toy_runs import Run, RunCommand, ToyConfig, plan, train_all
from edp_lightning.networks.ensemble import aggregate_q
from edp_lightning.runs.progress import LoggedProgress

AUTHORS = {"diffusion policy": (1.20, 0.21), "+ entropy": (1.70, 0.17), "+ entropy + Q-ensemble": (1.69, 0.03)}
"""Where the curves of the slides end, and how wide their bands are there."""


def toy(
    run_command: RunCommand,
    fit_config: str = "configs/toy.yaml",
    entropy: str = "path",
    seeds: int = 5,
    epochs: int = 500,
    workers: int = 2,
    output: str | None = None,
    compile: bool = True,
) -> Path:
    """Train a diffusion policy, + entropy, + entropy + Q-ensemble on the two-step task, and draw figure 3 of the slides.

    Stopped or killed, the same command goes on where the runs are; finished runs are only drawn again. Writes
    ``figure3.png`` and ``figure3.json``; the picture is in the folder's TensorBoard too.

    Args:
        run_command: What trains a run; ``edp_lightning.cli.run``.
        fit_config: Config of the runs; the first two variants have one critic instead of its ensemble.
        entropy: Estimator of the entropy term: path, reference, bridge or none.
        seeds: Number of seeds.
        epochs: Epochs of a run; one is as many transitions as the set has.
        workers: Runs at a time, one thread each.
        output: Folder of runs and figure; ``runs/toy-ENTROPY`` when not given.
        compile: Compile the runs' losses: half a minute for each variant, then twice as fast, so not for a few epochs.

    Returns:
        The picture's path.

    Raises:
        UserError: If an option is out of range, the extra ``plot`` is missing, or the folder holds other runs.
    """
    new_figure(1)  # better to say what is missing before minutes of training
    if seeds < 1 or workers < 1:
        raise UserError(f"toy needs seeds >= 1 and workers >= 1; got {seeds}, {workers}")
    settings = ToyConfig(fit_config, epochs)
    folder = Path(output or f"runs/toy-{entropy}")
    runs = plan(settings, entropy, seeds, folder, compile)
    dataset = settings.prepare_data()
    with LoggedProgress() as progress:
        task = progress.add_task(f"{len(runs)} runs", total=len(runs))
        for _ in train_all(runs, workers, run_command):
            progress.advance(task)
    results = gather(runs, dataset, settings.steps_per_epoch)
    return _write(results, folder, dataset, settings.epochs)


def gather(runs: Sequence[Run], dataset: str, steps_per_epoch: int) -> ToyResults:
    """Return what finished runs left behind.

    Args:
        runs: All runs, each variant with the same seeds.
        dataset: Name of the set.
        steps_per_epoch: Gradient steps of an epoch.
    """
    data = OfflineDataModule(dataset)
    data.setup("validate")
    action = torch.linspace(-1, 1, 201)
    returns: dict[str, list[np.ndarray]] = {}
    values: dict[str, list[np.ndarray]] = {"one critic": [], "mean of the ensemble": [], "LCB of the ensemble": []}
    for run in runs:
        curve = read_curves(run.folder)["evaluation/return"]
        returns.setdefault(run.variant.label, []).append(curve.value)
        if run.variant.name == "diffusion":
            continue
        module: Any = load_policy(run.folder).algorithm
        with torch.no_grad():
            state = module.normalizer(torch.zeros(len(action), 1))
            q = module.target_critic(state, module.action_scaler.inverse(action[:, None]))
        if run.variant.name == "entropy":
            values["one critic"].append(q[0].numpy())
        else:
            values["mean of the ensemble"].append(q.mean(dim=0).numpy())
            values["LCB of the ensemble"].append(aggregate_q(q, module.q_aggregation, module.lcb_coef).numpy())
    return ToyResults(
        state=data.transitions.next_observation[:, 0].numpy(),
        reward=data.transitions.reward.numpy(),
        epoch=(curve.step + 1) // steps_per_epoch,
        returns={label: np.stack(curves) for label, curves in returns.items()},
        action=action.numpy(),
        q={label: np.stack(curves) for label, curves in values.items()},
        discount=module.hparams["discount"],
    )


def _write(results: ToyResults, folder: Path, dataset: str, epochs: int) -> Path:
    """Write picture, TensorBoard event and numbers; print the numbers beside those of the slides."""
    from torch.utils.tensorboard import SummaryWriter

    figure = draw_toy(results)
    path = folder / "figure3.png"
    figure.savefig(path, dpi=150)
    with SummaryWriter(folder / "figure") as writer:
        writer.add_figure("toy/figure_3", figure, epochs)
    table = Table("variant", "last return", "band", "best mean", "slides", title=f"{dataset}, {epochs} epochs")
    record = {}
    for label, curves in results.returns.items():
        last = curves[:, -1]
        band = float(last.std(ddof=1)) if len(last) > 1 else 0.0
        best = float(curves.mean(axis=0).max())
        record[label] = {"last": last.tolist(), "mean": float(last.mean()), "band": band, "best_mean": best}
        theirs = "{:.2f} ({:.2f})".format(*AUTHORS[label])
        table.add_row(label, f"{last.mean():.3f}", f"{band:.3f}", f"{best:.3f}", theirs)
    facts = {"dataset": dataset, "epochs": epochs, "optimum": OPTIMUM, "variants": record, "versions": versions()}
    (folder / "figure3.json").write_text(json.dumps(facts, indent=2))
    Console().print(table)
    print(f"picture: {path}")
    return path
