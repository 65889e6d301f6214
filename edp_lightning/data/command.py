"""The ``data`` command: look at a dataset before training on it, or write it as a Minari set."""

from typing import Any

from edp_lightning.collect.writer import check_target
from edp_lightning.data.checks import check_episodes
from edp_lightning.data.convert import write_minari
from edp_lightning.data.datamodule import OfflineDataModule
from edp_lightning.data.quality import quality_facts
from edp_lightning.data.sources.bounds import ActionBound
from edp_lightning.data.sources.opening import obtain, open_source
from edp_lightning.environments.families import choose_view, family_of
from edp_lightning.errors import UserError


def show(
    source: str,
    view: str | None = None,
    environment: str | None = None,
    environment_kwargs: dict[str, Any] | None = None,
    download: bool = False,
    action_low: ActionBound = None,
    action_high: ActionBound = None,
    max_episode_steps: int | None = None,
) -> None:
    """Print the card of a dataset and the checks it passed; the last is one step in the evaluation's environment.

    Args:
        source: A Minari id, d4rl:NAME, d4rl:FILE.hdf5 or npz:FILE.npz.
        view: Observation view; the family's default when not given.
        environment: Gymnasium id of the evaluation environment, as data.environment.
        environment_kwargs: Its arguments, as data.environment_kwargs.
        download: Allow Minari to download a missing set.
        action_low: Lower bounds of the actions, as data.action_low.
        action_high: Upper bounds of the actions, as data.action_high.
        max_episode_steps: Time limit of the evaluation, as data.max_episode_steps.

    Raises:
        UserError: If the dataset is missing or damaged, or an evaluation cannot work; the message names the place and the fix.
    """
    module = OfflineDataModule(
        source,
        view=view,
        environment=environment,
        environment_kwargs=environment_kwargs,
        download=download,
        action_low=action_low,
        action_high=action_high,
        max_episode_steps=max_episode_steps,
    )
    module.prepare_data()
    module.setup("predict")  # reads the set; the environment is tried last
    opened = open_source(source)
    episodes = list(opened.episodes(module.view))
    box = module.action_low.numpy(), module.action_high.numpy()
    card = module.card
    for name, value in quality_facts(
        episodes, family_of(opened.evaluation_spec or opened.spec), module.view, opened.spec, *box
    ):
        card = card.with_fact(name, value)
    card.print()
    horizon = None if opened.spec is None else opened.spec.max_episode_steps
    for check in check_episodes(opened, episodes, horizon, *box):
        print(f"{'ok  ' if check.passed else 'look'}  {check.text}")
    tried = module.try_environment()
    if tried:
        print(f"ok    evaluation: {tried}")


def convert(
    source: str, dataset_id: str, view: str | None = None, keep_time_limits: bool = False, download: bool = False
) -> str:
    """Write any dataset as a Minari set on this machine.

    Observations are written flat, as the view gives them. The set names its environment if that observes the same numbers;
    otherwise give data.environment when training on it.

    Args:
        source: A Minari id, d4rl:NAME, d4rl:FILE.hdf5 or npz:FILE.npz.
        dataset_id: Minari id to write, such as mine/hopper/medium-v0.
        view: Observation view; the family's default when not given.
        keep_time_limits: Of D4RL files with next_observations, keep the rows at time limits.
        download: Allow Minari to download a missing set.

    Returns:
        The id that was written.

    Raises:
        UserError: If the source is missing or damaged, or the id is taken.
    """
    check_target(dataset_id)
    obtain(source, download)
    opened = open_source(source, keep_time_limits)
    family = family_of(opened.evaluation_spec or opened.spec)
    chosen = choose_view(opened.views or family.views, view, source, opened.observation_space)
    episodes = list(opened.episodes(chosen))
    if family.cell_size and "desired_goal" not in chosen.keys and any(e.position is not None for e in episodes):
        raise UserError(
            f"view {chosen.name} hides the goals that the stored rewards are for, and a flat set could not be relabelled: "
            "convert with --view goal, or train on the set itself, whose rewards are relabelled to the evaluation's goal"
        )
    path = write_minari(dataset_id, opened, episodes, family, chosen)
    print(f"{dataset_id}: written to {path}")
    return dataset_id
