"""Builds, resets and steps an environment once, so that an evaluation that cannot work is refused before training starts."""

import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec
from numpy.typing import NDArray

from edp_lightning.environments.answers import observation_of, reset_of, step_of
from edp_lightning.environments.mazes import remove_model_file
from edp_lightning.environments.quiet import quiet_gymnasium, register_robotics
from edp_lightning.environments.recipe import EvaluationEnvironment
from edp_lightning.environments.specs import read_spec
from edp_lightning.errors import UserError, first_line

WAY_OUT = "mend it, choose another data.environment, or train without evaluation: data.environment: none"


def try_out(environment: EvaluationEnvironment, observation_dim: int, action_dim: int) -> str:
    """Play one step of an environment; draws nothing from the global random streams of this package.

    Args:
        environment: Its recipe.
        observation_dim: Width of the data's observations.
        action_dim: Width of the data's actions, or chunks of them.

    Returns:
        What was found, in words.

    Raises:
        UserError: If the environment cannot be built, does not observe and act as the data do, or answers something else than
            Gymnasium's interface says.
    """
    spec = read_spec(environment.spec_json)
    env = _build(spec, environment.make)
    try:
        _check_widths(env, spec.id, environment.view.name, observation_dim, action_dim)
        return _play_a_step(env, spec.id, observation_dim)
    finally:
        with suppress(Exception):  # it has done its work
            env.close()


def declared_observation_space(spec: EnvSpec, arguments: Mapping[str, Any] | None = None) -> gym.Space[Any]:
    """Return the space of an environment's observations, before any view.

    Args:
        spec: The environment.
        arguments: Further arguments of it.

    Raises:
        UserError: If it cannot be built.
    """

    def make() -> gym.Env[Any, Any]:
        with quiet_gymnasium():
            register_robotics()
            return gym.make(spec, disable_env_checker=True, **(arguments or {}))

    env = _build(spec, make)
    with suppress(Exception):  # it has done its work
        env.close()
        remove_model_file(env)
    return env.observation_space


def _build(spec: EnvSpec, make: Callable[[], gym.Env[Any, Any]]) -> gym.Env[Any, Any]:
    try:
        return make()
    except UserError as error:
        raise UserError(f"environment {spec.id} {error}: {WAY_OUT}") from error
    except Exception as error:  # an environment may raise anything
        arguments = f" with the arguments {spec.kwargs}" if spec.kwargs else ""
        raise UserError(f"environment {spec.id} cannot be built{arguments} ({_reason(error)}): {WAY_OUT}") from error


def _check_widths(env: gym.Env[Any, Any], name: str, view: str, observation_dim: int, action_dim: int) -> None:
    found = {"observations": env.observation_space.shape, "actions": env.action_space.shape}
    for kind, width in (("observations", observation_dim), ("actions", action_dim)):
        if found[kind] != (width,):
            raise UserError(
                f"environment {name} has {kind} of shape {found[kind]} through view {view}, the data have {(width,)}: choose "
                "another data.environment or data.view"
            )


def _play_a_step(env: gym.Env[Any, Any], name: str, observation_dim: int) -> str:
    moment = "when it is reset"
    try:
        observation_of(reset_of(env.reset(seed=0)), observation_dim)
        moment = "in its first step"
        observation, reward, *_ = step_of(env.step(_middle(env.action_space)))
        observation_of(observation, observation_dim)
    except UserError as error:
        raise UserError(f"environment {name} answers wrongly {moment}: {error}; {WAY_OUT}") from error
    except Exception as error:  # an environment may raise anything
        raise UserError(f"environment {name} fails {moment} ({_reason(error)}): {WAY_OUT}") from error
    return f"one step was played in {name}: reward {reward:.4g}"


def _middle(space: Any) -> NDArray[np.float32]:
    """Return the middle of a box, or what is nearest to 0 of an unbounded one."""
    middle = (np.nan_to_num(space.low, neginf=-1e30) / 2 + np.nan_to_num(space.high, posinf=1e30) / 2).astype(np.float32)
    bounded = np.isfinite(space.low) & np.isfinite(space.high)
    return np.clip(np.where(bounded, middle, 0.0), space.low, space.high).astype(np.float32)


def _reason(error: Exception) -> str:
    """Return an error in one line, with the place in foreign code it came from."""
    if isinstance(error, ModuleNotFoundError) and error.name:
        return f"the module {error.name} is not installed"
    frames = traceback.extract_tb(error.__traceback__)
    place = f", {frames[-1].filename}:{frames[-1].lineno}" if frames else ""
    return f"{first_line(error)}{place}"
