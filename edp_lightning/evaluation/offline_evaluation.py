"""The ``evaluate_offline`` command: what recorded data say about a finished policy, for those who cannot try it out."""

import datetime
import json
from pathlib import Path
from typing import Any

import torch

from edp_lightning.algorithms.offline_algorithm import OfflineAlgorithm
from edp_lightning.data.datamodule import OfflineDataModule
from edp_lightning.data.tables.rewards import RewardMap
from edp_lightning.errors import UserError
from edp_lightning.evaluation.fitted_q import FitOptions
from edp_lightning.evaluation.loaded_policy import load_policy
from edp_lightning.evaluation.offline_estimates import CANNOT_PROMISE
from edp_lightning.evaluation.offline_judge import Judge, estimate
from edp_lightning.evaluation.results import checkpoint_facts, versions
from edp_lightning.runs.checkpoint_io import read_checkpoint
from edp_lightning.runs.progress import LoggedProgress
from edp_lightning.runs.run_folder import checkpoint_in, folder_of_checkpoint


def evaluate_offline(
    ckpt_path: str | None = None,
    dataset: str | None = None,
    steps: int = 30_000,
    batch_size: int = 256,
    members: int = 3,
    learning_rate: float = 3.0e-4,
    tau: float = 0.05,
    discount: float | None = None,
    max_rows: int = 100_000,
    max_states: int = 1000,
    episodes: int = 0,
    seed: int = 0,
    device: str = "cpu",
    output: str | None = None,
) -> Path:
    """Estimate the discounted return of a finished policy from recorded data, without running it.

    Args:
        ckpt_path: A checkpoint file, or the folder of a run, whose last one is taken.
        dataset: Data to judge on; those of the training when not given.
        steps: Gradient steps of fitted Q evaluation.
        batch_size: Rows per gradient step.
        members: Networks that are fitted independently.
        learning_rate: Adam learning rate of the fit.
        tau: Weight of the networks under training in the running average that targets come from.
        discount: Discount per step; the policy's own when not given.
        max_rows: Transitions to fit on, drawn at random where the data have more: the policy must act once in each.
        max_states: Initial states of the data's episodes to judge, evenly spread.
        episodes: Also play so many episodes in the data's environment, where there is one, and compare.
        seed: Seed of everything random.
        device: Where the networks run.
        output: File to write; offline_CHECKPOINT.json in the run's folder when not given.

    Returns:
        The file that was written.

    Raises:
        UserError: If there is no such checkpoint or dataset, or the policy cannot be judged so.
    """
    options = _checked(steps, batch_size, members, learning_rate, tau, seed)
    for name, value in (("max_rows", max_rows), ("max_states", max_states)):
        if value < 1:
            raise UserError(f"{name} must be at least 1; got {value}")
    if ckpt_path is None:
        raise UserError("name the policy: --ckpt_path FILE, a checkpoint or the folder of a run")
    path = checkpoint_in(ckpt_path)
    saved = read_checkpoint(path)
    algorithm = load_policy(path, device=device, seed=seed).algorithm
    discount = _discount(algorithm, discount)
    data = _data(saved, dataset, discount, bool(episodes))
    reward_map = _reward_map(saved)
    if algorithm.discount not in (None, discount):  # its critics hold values at that discount: nothing to compare with here
        print(f"the policy's own critics are left out: their discount is {algorithm.discount:g}, not {discount:g}")
        reward_map = None
    with LoggedProgress(transient=True) as progress, torch.random.fork_rng(devices=[]):
        judge = Judge(algorithm, data, progress, seed)
        found = estimate(judge, data, reward_map, discount, options, max_rows, max_states, episodes)
    record = {
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "checkpoint": checkpoint_facts(path),
        "algorithm": type(algorithm).__name__,
        "dataset": data.dataset_info,
        "discount": discount,
        "fit": {name: value for name, value in vars(options).items()},
        **found,
        "cannot_promise": CANNOT_PROMISE,
        "versions": versions(),
    }
    file = Path(output) if output else folder_of_checkpoint(path) / f"offline_{path.stem}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record, indent=2))
    _tell(found, file)
    return file


def _checked(steps: int, batch_size: int, members: int, learning_rate: float, tau: float, seed: int) -> FitOptions:
    for name, value in (("steps", steps), ("batch_size", batch_size), ("members", members)):
        if value < 1:
            raise UserError(f"{name} must be at least 1; got {value}")
    if not 0 < tau <= 1:
        raise UserError(f"tau must be above 0 and at most 1; got {tau}")
    if not 0 < learning_rate < 1:
        raise UserError(f"learning_rate must lie between 0 and 1; got {learning_rate}")
    return FitOptions(steps, batch_size, members, lr=learning_rate, tau=tau, seed=seed)


def _discount(algorithm: OfflineAlgorithm, chosen: float | None) -> float:
    name = type(algorithm).__name__
    if type(algorithm).reset is not OfflineAlgorithm.reset:
        raise UserError(f"{name} acts on the episode so far, not on an observation alone: fitted Q evaluation cannot judge it")
    discount = algorithm.discount if chosen is None else chosen
    if discount is None:
        raise UserError(f"{name} has no discount of its own: give one with --discount, such as 0.99")
    if not 0 <= discount < 1:
        raise UserError(f"the discount must be at least 0 and below 1, or values have no bound; got {discount}")
    return discount


def _data(saved: dict[str, Any], dataset: str | None, discount: float, play: bool) -> OfflineDataModule:
    """Return the data in the environment's units of reward, read by the options of the training."""
    options = {k: v for k, v in saved.get("datamodule_hyper_parameters", {}).items() if not k.startswith("_")}
    if dataset is not None:
        options |= {"dataset": dataset, "mixture": None}
    if not options.get("dataset") or options["dataset"] == "arrays":
        raise UserError("the checkpoint does not say which data it was trained on: name some with --dataset")
    chunk = options.get("action_chunk", 1)
    options |= {"reward_transform": "none", "n_step": chunk, "discount": discount, "best_share": 1.0, "validation": None}
    data = OfflineDataModule(**options)
    data.prepare_data()
    data.setup("validate" if play else "predict")
    if play and data.environment is None:
        raise UserError(f"no episodes can be played: {data.no_environment}; leave --episodes out")
    return data


def _reward_map(saved: dict[str, Any]) -> RewardMap | None:
    """Return what became of rewards in the policy's training, if the checkpoint says so."""
    state = saved.get("OfflineDataModule", {})
    return RewardMap(*state["reward_map"]) if "reward_map" in state else None


def _tell(found: dict[str, Any], file: Path) -> None:
    for name, value in found["estimates"].items():
        print(f"{name:24} {_interval(value)}, {value['units']}")
    print(f"{'return of the data':24} {_interval(found['data_return'])}")
    if not found["settled"]:
        print("the fitted value was still moving when the fit ended: give more --steps")
    if "comparison" in found:
        print(f"{'true return':24} {_interval(found['comparison']['true_return'])}")
        for name, error in found["comparison"]["estimators"].items():
            print(f"{f'bias of {name}':24} {_interval(error['bias'])}")
    print(f"results: {file}\n{CANNOT_PROMISE}")


def _interval(estimate: dict[str, Any]) -> str:
    if estimate["low"] is None:
        return f"{estimate['mean']:.4g}"
    return f"{estimate['mean']:.4g} ({estimate['low']:.4g} to {estimate['high']:.4g}, {estimate['states']} initial states)"
