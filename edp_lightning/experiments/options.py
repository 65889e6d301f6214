"""Configs and options as a sweep file lists them, and as the command line takes them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from edp_lightning.errors import UserError

OWN = ("output", "run_name", "seed_everything", "trainer.max_steps", "ckpt_path")
"""Options that the sweep sets."""


class Options:
    """Config files and ``--NAME=VALUE``, in their order.

    Args:
        entries: As in a sweep file.

    Raises:
        UserError: If a file does not exist, or an option is written otherwise or is the sweep's to set.
    """

    def __init__(self, entries: Sequence[str]) -> None:
        for entry in entries:
            if not entry.startswith("-"):
                read_yaml(Path(entry))
                continue
            name, equals, _ = entry.partition("=")
            if not entry.startswith("--") or not equals:
                raise UserError(f"option {entry!r}: write it as --NAME=VALUE")
            if name[2:] in OWN:
                raise UserError(f"option {entry!r}: {name[2:]} is set by the sweep")
        self.entries = tuple(entries)

    def words(self) -> list[str]:
        """Return them as words of a command line."""
        return [entry if entry.startswith("--") else f"--config={entry}" for entry in self.entries]


def read_yaml(path: Path) -> dict[str, Any]:
    """Return the mapping in a file.

    Raises:
        UserError: If it cannot be read or holds none.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: paths in a sweep file start at the working folder, {Path.cwd()}") from None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no mapping of names to values")
    return content


def stated(words: Sequence[str], option: str) -> Any:
    """Return the value that a command line gives an option, in its configs or as ``--option=value``; None if it does not."""
    value = None
    for word in words:
        name, _, text = word.partition("=")
        if name == f"--{option}":
            value = yaml.safe_load(text)
        elif name == "--config":
            found: Any = read_yaml(Path(text))
            for key in option.split("."):
                found = found.get(key) if isinstance(found, dict) else None
            value = value if found is None else found
    return value
