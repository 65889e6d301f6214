"""What the options of a data module make of a stored set: how it is seen, where it is judged, how its episodes become rows."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from numpy.typing import NDArray

from edp_lightning.data.card import DataCard, make_card
from edp_lightning.data.sources.bounds import action_bounds
from edp_lightning.data.tables.facts import TableFacts
from edp_lightning.data.tables.recipe import TableRecipe
from edp_lightning.data.transitions import Terminals
from edp_lightning.errors import UserError

if TYPE_CHECKING:  # environments and file formats are imported when a dataset is opened, not for --help
    from edp_lightning.data.sources.source import Source
    from edp_lightning.environments.families import ObservationView
    from edp_lightning.environments.recipe import EvaluationEnvironment

NO_ENVIRONMENT = "none"
"""Value of ``data.environment`` for training without evaluation."""


@dataclass(frozen=True)
class OpenedSet:
    """A set with all that a run has decided about it, before any row is made.

    Attributes:
        source: The set.
        view: How observations are seen.
        environment: Where policies are judged; None for nowhere.
        no_environment: Why nowhere.
        reward_mismatch: Why the evaluation's rewards are not those that training values; empty if they are.
        recipe: What becomes of an episode.
        low: Lower bounds of the actions, shape (action_dim of one step,).
        high: Upper bounds.
    """

    source: "Source"
    view: "ObservationView"
    environment: "EvaluationEnvironment | None"
    no_environment: str
    reward_mismatch: str
    recipe: TableRecipe
    low: NDArray[np.float32]
    high: NDArray[np.float32]


def decide(dataset: str, source: "Source", options: Mapping[str, Any]) -> OpenedSet:
    """Return a set with what is decided about it.

    Args:
        dataset: Its id.
        source: The set, or several as one.
        options: Arguments of ``OfflineDataModule``, by name.

    Raises:
        UserError: If an option does not fit the set.
    """
    from edp_lightning.data.sources.mixture import MixedSource
    from edp_lightning.environments.families import GOAL_RADIUS, choose_view, family_of, pays_by_distance
    from edp_lightning.environments.flattening import is_structured
    from edp_lightning.environments.recipe import evaluation_environment, reward_mismatch
    from edp_lightning.environments.specs import environment_spec
    from edp_lightning.environments.trial import declared_observation_space

    judged = options["environment"] != NO_ENVIRONMENT
    named = options["environment"] if judged else None
    chosen = environment_spec(named) if named else source.evaluation_spec
    family = family_of(chosen or source.spec)
    # a chosen environment decides how it is flattened; without one, arrays that are flat already are their own view
    views = family.views if named else source.views or family.views
    space = source.observation_space
    if named and chosen is not None and options["view"] not in (None, *(view.name for view in views)):
        space = space if is_structured(space) else declared_observation_space(chosen, options["environment_kwargs"])
    view = choose_view(views, options["view"], dataset, space)
    # looked at even where it is not to be judged in: the goal of relabelled rewards is that of the environment
    environment = evaluation_environment(
        dataset,
        source.spec,
        chosen,
        view,
        source.score_reference,
        options["environment_kwargs"],
        options["action_chunk"],
        options["max_episode_steps"],
    )
    goal = None if environment is None else environment.fixed_goal
    terminals = _terminals(
        dataset, options["terminals"], family.terminals, goal is None and pays_by_distance(source.spec or chosen)
    )
    specs = [part.spec for part in source.sources] if isinstance(source, MixedSource) else [source.spec]
    evaluated = environment if judged else None
    mismatches = (reward_mismatch(spec, evaluated, terminals) for spec in specs)
    bounds = options["action_low"], options["action_high"]
    low, high = action_bounds(source, *bounds, lambda: (episode.action for episode in source.episodes(view)))
    source.check_actions(low, high)
    recipe = TableRecipe(
        low=tuple(low.tolist()),
        high=tuple(high.tolist()),
        goal=goal,
        goal_radius=GOAL_RADIUS,
        terminals=terminals,
        reward_transform=options["reward_transform"],
        reward_shift=options["reward_shift"],
        reward_scale=options["reward_scale"],
        n_step=options["n_step"],
        discount=options["discount"],
        action_clip_eps=options["action_clip_eps"],
        action_chunk=options["action_chunk"],
    )
    no_environment = source.no_environment if judged else "data.environment is none"
    mismatch = next(filter(None, mismatches), "")
    return OpenedSet(source, view, evaluated, no_environment, mismatch, recipe, low, high)


def _terminals(dataset: str, chosen: Terminals | None, usual: str, always_paid: bool) -> Terminals:
    """Return which steps end an episode.

    Args:
        dataset: Id of the set.
        chosen: What the user says.
        usual: What the family says.
        always_paid: Whether every step has a positive reward, so that none says that the goal was reached.

    Raises:
        UserError: If every step would be an end.
    """
    if not always_paid:
        return cast(Terminals, chosen or usual)
    if chosen not in (None, "env"):
        raise UserError(
            f"{dataset} pays exp(-distance to the goal) at every step, so data.terminals {chosen} would end the task at each: "
            "set data.terminals to env, or take the sparse set"
        )
    return "env"


def card_of(
    dataset: str,
    opened: OpenedSet,
    options: Mapping[str, Any],
    facts: TableFacts,
    shares: Sequence[float],
    held_out: int | None,
) -> DataCard:
    """Return the card of a run's data.

    Args:
        dataset: Id of the first set.
        opened: What was decided about it.
        options: Arguments of ``OfflineDataModule``, by name.
        facts: What its table holds.
        shares: Of a mixture, the probability of each set's rows.
        held_out: Steps of ``data.validation``; None without one.
    """
    card = make_card(dataset, opened.source.origin, opened.view.name, facts, float(opened.low.min()), float(opened.high.max()))
    given = [f"data.{name}" for name in ("action_low", "action_high") if options[name] is not None]
    if given:
        card = card.with_fact("action box given by", " and ".join(given))
    if opened.source.whole_actions:
        card = card.with_fact("actions", "whole numbers: an evaluation rounds, predictions are not rounded")
    where = f"none: {opened.no_environment}" if opened.environment is None else opened.environment.summary()
    card = card.with_fact("evaluation", where)
    if options["action_chunk"] > 1:
        card = card.with_fact("actions per decision", f"{options['action_chunk']}; transitions: {facts.rows}")
    if options["mixture"]:
        names = (dataset, *options["mixture"])
        rows = zip(shares, facts.parts, names, strict=True)
        card = card.with_fact("mixture", ", ".join(f"{p:.0%} of a batch from {n} rows of {name}" for p, n, name in rows))
    if held_out is not None:
        card = card.with_fact("held out", f"{held_out} steps of {options['validation']}")
    return card
