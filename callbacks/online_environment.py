"""Where a policy goes on learning, and which runs can."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import lightning as L

from edp_lightning.data.datamodule import OfflineDataModule
from edp_lightning.environments.workers import Environments, LocalEnvironments, WorkerEnvironments
from edp_lightning.errors import UserError
from edp_lightning.runs.processes import check_script_is_guarded

if TYPE_CHECKING:  # the module is imported for --help, environments are not
    from edp_lightning.environments.recipe import EvaluationEnvironment


def refuse_unfit(trainer: L.Trainer, module: Any) -> None:
    """Refuse a run that cannot go on online.

    Raises:
        UserError: With the reason.
    """
    name = type(module).__name__
    if module.discount is None:
        raise UserError(
            f"{name} cannot learn online: it learns no values of single transitions, so what it does itself would teach it "
            "nothing. Leave online.env_steps out, or take an algorithm with critics"
        )
    if trainer.world_size > 1:
        raise UserError(f"online.env_steps is for one device, this run has {trainer.world_size}: set trainer.devices to 1")
    data = getattr(trainer, "datamodule", None)
    if not isinstance(data, OfflineDataModule):
        raise UserError("online.env_steps needs an OfflineDataModule, which knows the environment and how episodes become rows")
    if data.environment is None:
        raise UserError(f"online.env_steps needs an environment: {data.no_environment}")
    if trainer.fast_dev_run:  # type: ignore[attr-defined]
        raise UserError(
            "trainer.fast_dev_run is one batch and leaves no files; an online phase is neither: leave one of them out"
        )
    if trainer.overfit_batches:  # type: ignore[attr-defined]
        raise UserError("trainer.overfit_batches repeats batches, which online.env_steps cannot: leave one of them out")


def refuse_selective_cloning(module: Any, offline_share: float) -> None:
    """Refuse a behaviour loss on the dataset's rows alone where there is none to restrict, or no such rows.

    Raises:
        UserError: With the reason.
    """
    name = type(module).__name__
    if not module.heeds_cloned_rows:
        raise UserError(f"online.clone_collected false is for EntropyDiffusionPolicy; {name} learns from all rows alike")
    if offline_share == 0:
        raise UserError(
            "online.clone_collected false with online.offline_share 0 leaves the behaviour loss nothing: raise "
            "online.offline_share"
        )


def online_environment(recipe: "EvaluationEnvironment", count: int, workers: int) -> Environments:
    """Return environments that are stepped action by action; what happens within a chunk of actions is seen too.

    Args:
        recipe: The evaluation's.
        count: How many.
        workers: Processes; 0 for this one.
    """
    single = replace(recipe, action_chunk=1)
    if workers:
        check_script_is_guarded()
        return WorkerEnvironments(single.make, count, min(workers, count))
    return LocalEnvironments([single.make() for _ in range(count)])


def collected_where(data: OfflineDataModule, module: Any) -> dict[str, Any]:
    """Return what a checkpoint says of the episodes in it, so that they are a dataset of their own."""
    assert data.environment is not None
    return {
        "dataset": data.dataset,
        "algorithm": type(module).__name__,
        "environment": data.environment.spec_json,
        "max_episode_steps": data.environment.max_episode_steps,
        "view": [data.view.name, *data.view.keys],
        "action_low": list(data.recipe.low),
        "action_high": list(data.recipe.high),
    }
