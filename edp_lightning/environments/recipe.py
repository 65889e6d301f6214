"""Recipes of the environments in which policies trained on a dataset are judged."""

import copy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import gymnasium as gym
from gymnasium.envs.registration import EnvSpec

from edp_lightning.environments.actions import FittedActions
from edp_lightning.environments.families import ObservationView, family_of, pays_by_distance
from edp_lightning.environments.flattening import Floats
from edp_lightning.environments.mazes import WALL
from edp_lightning.environments.own_randomness import OwnRandomness
from edp_lightning.environments.quiet import quiet_gymnasium, register_robotics
from edp_lightning.environments.scores import ScoreReference
from edp_lightning.environments.specs import read_spec, write_spec
from edp_lightning.environments.wrappers import ActionChunks, FlatObservation, MazeProgress
from edp_lightning.errors import UserError


@dataclass(frozen=True)
class EvaluationEnvironment:
    """Recipe of the environment in which policies trained on a dataset are judged. Picklable.

    Attributes:
        spec_json: Gymnasium's EnvSpec as JSON.
        view: How observations are flattened.
        max_episode_steps: Horizon; None only until the longest episode of the data is known.
        score_reference: For normalised scores, if there is one.
        success: Whether reaching the goal is the score.
        fixed_goal: World coordinates of the goal for views that do not show it; None leaves the environment's own goal.
        action_chunk: Actions per decision of the policy.
        limited_by: Where the horizon comes from: the environment (or its family), the user's option, or the data.
    """

    spec_json: str
    view: ObservationView
    max_episode_steps: int | None
    score_reference: ScoreReference | None
    success: bool
    fixed_goal: tuple[float, float] | None = None
    action_chunk: int = 1
    limited_by: Literal["environment", "option", "data"] = "environment"

    def make(self, render_mode: str | None = None) -> gym.Env[Floats, Floats]:
        """Return a fresh environment with flat float32 observations, a step of which takes a chunk of actions.

        Args:
            render_mode: ``rgb_array`` lets it draw itself.
        """
        spec = read_spec(self.spec_json)
        family = family_of(spec)
        if family.broken_with is not None:
            family.broken_with.refuse()
        own = self.limited_by != "environment"
        spec.max_episode_steps = None if own else self.max_episode_steps
        if render_mode is not None:  # environments that draw nothing need not know the argument
            spec.kwargs["render_mode"] = render_mode
        with quiet_gymnasium():
            register_robotics()
            env = gym.make(spec, disable_env_checker=True)
        if family.draws_globally:
            env = OwnRandomness(env)
        if own and self.max_episode_steps is not None:  # around everything: wrappers of the environment may skip steps
            env = gym.wrappers.TimeLimit(env, self.max_episode_steps)
        if family.cell_size:
            env = MazeProgress(env, self.fixed_goal, family.torso_quaternion)
        env = FittedActions(env)
        if self.action_chunk > 1:
            env = ActionChunks(env, self.action_chunk)
        return FlatObservation(env, self.view)

    @property
    def lives_in_a_shell(self) -> bool:
        """Whether its class was defined in a notebook or shell, where other processes cannot find it."""
        own = str(read_spec(self.spec_json).entry_point).startswith("__main__:")
        return own and not hasattr(sys.modules["__main__"], "__file__")

    def limited_by_data(self, longest: int) -> "EvaluationEnvironment":
        """Return the recipe with a horizon: the longest episode of the data, if there is no other."""
        if self.max_episode_steps is not None:
            return self
        return replace(self, max_episode_steps=longest, limited_by="data")

    def summary(self) -> str:
        """Return in words where policies are judged, by which measure, and where its reference comes from."""
        origin = {
            "environment": "",
            "option": " (data.max_episode_steps)",
            "data": " (no limit: the data's longest episode)",
        }
        text = f"{read_spec(self.spec_json).id}, {self.max_episode_steps} steps{origin[self.limited_by]}"
        if self.success:
            return f"{text}, success rate"
        reference = self.score_reference
        if reference is None:
            return f"{text}, plain returns: no reference pair is known"
        return f"{text}, score 0 = return {reference.minimum:g}, 100 = return {reference.maximum:g} ({reference.origin})"

    def describe(self) -> dict[str, Any]:
        """Return plain facts for result files."""
        spec = read_spec(self.spec_json)
        reference = self.score_reference
        return {
            "id": spec.id,
            "arguments": {key: _plain(value) for key, value in spec.kwargs.items()},
            "max_episode_steps": self.max_episode_steps,
            "view": self.view.name,
            "fixed_goal": list(self.fixed_goal) if self.fixed_goal else None,
            "action_chunk": self.action_chunk,
            "score_reference": None if reference is None else [reference.minimum, reference.maximum, reference.origin],
        }


def _plain(value: Any) -> Any:
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return str(value)


def evaluation_environment(
    dataset_id: str,
    spec: EnvSpec | None,
    evaluation_spec: EnvSpec | None,
    view: ObservationView,
    stored_reference: ScoreReference | None = None,
    arguments: Mapping[str, Any] | None = None,
    action_chunk: int = 1,
    max_episode_steps: int | None = None,
) -> EvaluationEnvironment | None:
    """Return the recipe for a dataset, or None if it names no environment.

    Args:
        dataset_id: Name of the set, for messages.
        spec: Environment the data were collected in.
        evaluation_spec: Environment named for evaluation, by the set or by the user.
        view: Observation view.
        stored_reference: Score reference stored with the set; the family's own is preferred.
        arguments: Arguments of the environment that the user chose; they win over the family's.
        action_chunk: Actions per decision of the policy.
        max_episode_steps: Horizon that the user chose; it wins over the family's and the environment's.

    Raises:
        UserError: If the environment cannot be written down, or if the two environments are versions of one task, whose
            physics differ.
    """
    chosen = evaluation_spec or spec
    if chosen is None:
        return None
    if spec is not None:
        refuse_mixed_versions(dataset_id, spec, chosen)
    family = family_of(chosen)
    chosen = copy.deepcopy(chosen)
    chosen.kwargs.update({**family.kwargs, **(arguments or {})})
    own_map = "maze_map" in (arguments or {})
    if spec is not None and not own_map and _is_turned(chosen.kwargs.get("maze_map"), spec.kwargs.get("maze_map")):
        # Minari's AntMaze umaze sets publish the evaluation maze turned against the data (Farama-Foundation/Minari#304).
        chosen.kwargs["maze_map"] = _turned(chosen.kwargs["maze_map"])
    shows_goal = not family.cell_size or "desired_goal" in view.keys
    if not shows_goal and pays_by_distance(chosen) and "reward_type" not in (arguments or {}):
        chosen.kwargs["reward_type"] = "sparse"  # as training's rewards, which are relabelled to 1 at the goal
    # In a maze that pays once and ends a return is 0 or 1, and the family's reference is for these.
    pays_once = not family.cell_size or not (pays_by_distance(chosen) or chosen.kwargs.get("continuing_task"))
    text = write_spec(chosen)
    return EvaluationEnvironment(
        spec_json=text,
        view=view,
        max_episode_steps=max_episode_steps or family.max_episode_steps or read_spec(text).max_episode_steps,
        limited_by="option" if max_episode_steps else "environment",
        score_reference=(family.reference if pays_once else None) or stored_reference,
        success=family.success,
        fixed_goal=None if shows_goal else goal_position(chosen, family.cell_size, dataset_id),
        action_chunk=action_chunk,
    )


REWARD_FREE_ARGUMENTS = {"maze_map", "continuing_task", "reset_target", "render_mode", "max_episode_steps"}
"""Arguments of environments that change where episodes start and end, or what is drawn, but not what a step pays."""


def reward_mismatch(spec: EnvSpec | None, environment: EvaluationEnvironment | None, terminals: str) -> str:
    """Return why the evaluation's rewards are not those that training values, or nothing if they are.

    Args:
        spec: Environment the data were collected in.
        environment: Recipe of the evaluation.
        terminals: What ends an episode in training's data; mazes end at the goal when they are evaluated.
    """
    if spec is None or environment is None:
        return "the set does not say in which environment it was collected"
    evaluated = read_spec(environment.spec_json)
    if str(spec.entry_point) != str(evaluated.entry_point):
        return f"data and evaluation come from different environments, {spec.id} and {evaluated.id}"
    if family_of(evaluated).cell_size and terminals == "env":
        return "the evaluation ends at the goal, which training's data (data.terminals: env) do not"
    names = {*spec.kwargs, *evaluated.kwargs} - REWARD_FREE_ARGUMENTS
    if environment.fixed_goal is not None:  # rewards are relabelled to 1 at the goal
        names.discard("reward_type")
        if pays_by_distance(evaluated):
            return "the evaluation's environment has another reward_type than the relabelled rewards: it pays by distance"
    missing = object()
    differing = sorted(n for n in names if _plain(spec.kwargs.get(n, missing)) != _plain(evaluated.kwargs.get(n, missing)))
    if differing:
        return f"the evaluation's environment has other arguments than the data's: {', '.join(differing)}"
    return ""


def refuse_mixed_versions(dataset_id: str, collected: EnvSpec, evaluated: EnvSpec) -> None:
    """Raise if two environments are different versions of one task, such as Walker2d-v4 and -v5.

    Raises:
        UserError: Naming both.
    """
    same_task = (collected.namespace, collected.name) == (evaluated.namespace, evaluated.name)
    if same_task and collected.version != evaluated.version:
        raise UserError(
            f"dataset {dataset_id} was collected in {collected.id}, but would be evaluated in {evaluated.id}: versions of an "
            f"environment differ in physics and observations; set data.environment: {collected.id}"
        )


def _walls(cells: Sequence[Sequence[Any]]) -> list[list[bool]]:
    return [[cell == WALL for cell in row] for row in cells]


def _turned(cells: Sequence[Sequence[Any]]) -> list[list[Any]]:
    return [list(reversed(row)) for row in reversed(cells)]


def _is_turned(evaluated: Any, collected: Any) -> bool:
    """Return whether a maze has the walls of another one only after half a turn."""
    if not evaluated or not collected:
        return False
    return _walls(evaluated) != _walls(collected) and _walls(_turned(evaluated)) == _walls(collected)


def goal_position(spec: EnvSpec, cell_size: float, dataset_id: str) -> tuple[float, float]:
    """Return the centre of the only goal cell of a maze, in metres; the maze's centre is the origin.

    Raises:
        UserError: If the maze has none or several, so that there is no goal to relabel to.
    """
    cells = spec.kwargs["maze_map"]
    goals = [(i, j) for i, row in enumerate(cells) for j, cell in enumerate(row) if cell == "g"]
    if len(goals) != 1:
        raise UserError(f"dataset {dataset_id}: its evaluation maze has {len(goals)} goal cells; this view needs exactly one")
    (row, column) = goals[0]
    return (column + 0.5 - len(cells[0]) / 2) * cell_size, (len(cells) / 2 - row - 0.5) * cell_size
