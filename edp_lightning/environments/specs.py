"""Specs of environments from outside: found by name or read from a dataset, written so that any process can rebuild them."""

import copy
import dataclasses
import importlib
import json
import sys
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.registration import EnvSpec

from edp_lightning.environments.quiet import quiet_gymnasium, register_robotics
from edp_lightning.errors import UserError, first_line

FIELDS = {field.name for field in dataclasses.fields(EnvSpec) if field.init}
"""What the installed Gymnasium knows of an environment; versions before 1.0 wrote ``autoreset`` and others too."""


def read_spec(text: str) -> EnvSpec:
    """Return the spec in a JSON text; fields that only other versions of Gymnasium know are left out.

    Raises:
        ValueError: If the text describes no environment.
    """
    found = json.loads(text)
    if not isinstance(found, dict) or not isinstance(found.get("id"), str):
        raise ValueError("it describes no environment")
    known = {name: value for name, value in found.items() if name in FIELDS}
    known["additional_wrappers"] = known.get("additional_wrappers") or []
    known["kwargs"] = known.get("kwargs") or {}
    if not isinstance(known["kwargs"], dict):
        raise ValueError("its kwargs are no mapping")
    spec = EnvSpec.from_json(json.dumps(known))
    spec.max_episode_steps = _limit(spec)
    return spec


def write_spec(spec: EnvSpec) -> str:
    """Return a spec as JSON, from which any process on this machine can build the environment.

    Numpy's numbers and arrays among the arguments become plain numbers and lists; a class or function as entry point becomes
    its name.

    Raises:
        UserError: If an entry point has no name to be found by, or an argument cannot be written down.
    """
    written = copy.copy(spec)
    written.entry_point = _named(spec, spec.entry_point)
    written.vector_entry_point = None  # never used here, and often a class
    try:
        written.max_episode_steps = _limit(spec)
    except ValueError as error:
        raise UserError(f"environment {spec.id}: {error}") from error
    written.kwargs = {name: _plain(spec, name, value) for name, value in spec.kwargs.items()}
    written.additional_wrappers = tuple(
        wrapper
        if wrapper.kwargs is None  # cannot be rebuilt; whoever builds the environment says so
        else dataclasses.replace(wrapper, kwargs={n: _plain(spec, n, v) for n, v in wrapper.kwargs.items()})
        for wrapper in spec.additional_wrappers
    )
    return written.to_json()


def environment_spec(name: str, arguments: Mapping[str, Any] | None = None) -> EnvSpec:
    """Return a copy of a registered environment's spec with further arguments.

    Args:
        name: Gymnasium id, those of gymnasium-robotics included; ``package.module:Env-v0`` imports the module that registers
            the environment first.
        arguments: Keyword arguments that are added to the registered ones.

    Raises:
        UserError: If there is no such environment, or its module cannot be imported.
    """
    register_robotics()
    module, colon, env_id = name.rpartition(":")
    if colon:
        try:
            importlib.import_module(module)
        except Exception as error:  # a module may raise anything
            here = "" if not isinstance(error, ModuleNotFoundError) or error.name not in (module, module.split(".")[0]) else (
                "; python looks in the folder it is started in if the command is python -m edp_lightning, and in PYTHONPATH"
            )  # fmt: skip
            raise UserError(f"data.environment: module {module} cannot be imported ({first_line(error)}){here}") from error
    try:
        with quiet_gymnasium():
            spec = copy.deepcopy(gym.spec(env_id))
    except Exception as error:  # gymnasium raises its own errors, and import errors of plugins
        hint = "" if colon else "; one of your own needs the module that registers it: data.environment: package.module:Env-v0"
        raise UserError(f"data.environment: gymnasium knows no {name!r} ({first_line(error)}{hint})") from error
    spec.kwargs.update(arguments or {})
    return spec


def _limit(spec: EnvSpec) -> int | None:
    """Return the time limit, None without one; Gymnasium writes that as -1 too."""
    limit: Any = spec.max_episode_steps
    if limit is None or (isinstance(limit, (int, float)) and not isinstance(limit, bool) and limit == -1):
        return None
    if isinstance(limit, bool) or not isinstance(limit, (int, float, np.integer)) or limit != int(limit) or limit < 1:
        raise ValueError(f"max_episode_steps {limit!r} is no number of steps")
    return int(limit)


def _named(spec: EnvSpec, entry_point: Any) -> Any:
    """Return an entry point as ``module:name``."""
    if not callable(entry_point):
        return entry_point
    module, name = getattr(entry_point, "__module__", None), getattr(entry_point, "__qualname__", "")
    found: Any = sys.modules.get(module or "")
    for part in name.split("."):
        found = getattr(found, part, None)
    if found is not entry_point:
        raise UserError(
            f"environment {spec.id} is registered with {name or entry_point!r}, which other processes cannot find: register it "
            "with entry_point='package.module:Name' of a class or function at the top of a module"
        )
    return f"{module}:{name}"


def _plain(spec: EnvSpec, argument: str, value: Any) -> Any:
    if isinstance(value, np.generic):
        value = value.item()
    elif isinstance(value, np.ndarray):
        value = value.tolist()
    if isinstance(value, (str, int, float, bool)) or value is None:
        return value
    if isinstance(value, (list, tuple)):
        return [_plain(spec, argument, item) for item in value]
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _plain(spec, argument, item) for key, item in value.items()}
    raise UserError(
        f"environment {spec.id}: its argument {argument} is a {type(value).__name__}; arguments are kept with the run, so they "
        "must be numbers, texts, lists and mappings: let the environment make the rest itself"
    )
