"""Which algorithm a command line means, found before its options are known: they are those of the algorithm."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from edp_lightning.command_line.commands import COMMANDS
from edp_lightning.errors import UserError

OWN_SECTION = "model"


@dataclass(frozen=True)
class Choice:
    """An algorithm by name and the rest of the command line.

    Attributes:
        name: Its name or import path; None if nothing names one.
        arguments: The command line without what named it. Configs whose section ``model`` is for another algorithm have lost
            that section; those that name this one have its options side by side, as if there were no other algorithm.
        left_out: Config files that lost their section, for a message.
    """

    name: str | None
    arguments: list[str]
    left_out: list[str]


def choose_algorithm(arguments: list[str], default: str) -> Choice:
    """Return which algorithm is meant by ``--model NAME`` and the ``model.class_path`` of config files; the last one counts.

    A config that names none is for the one named before it, at the beginning for ``default``. Options given for one algorithm
    say nothing about another: where the last one named differs, earlier configs count without their section ``model``.

    Args:
        arguments: Words of the command line.
        default: Algorithm of configs that name none.

    Raises:
        UserError: If a config's section for a command holds no options.
    """
    parts: list[_Part] = []
    named: str | None = None
    for words in _grouped(arguments):
        option, value = words
        part = _Part(words, named)
        if value is not None and (
            option == f"--{OWN_SECTION}.class_path" or (option == f"--{OWN_SECTION}" and _is_name(value))
        ):
            named, part.words = value, (None, None)
        elif option in ("--config", "-c") and value is not None:
            part.config = _read(value)
            _check_sections(value, part.config)
            named = _name_in(part.config) or named
        part.algorithm = named
        parts.append(part)
    rest, left_out = [], []
    for part in parts:
        option, value = part.words
        if part.config is not None and _has_section(part.config):
            short = _short(part.algorithm or default)
            if short != _short(named or default):
                left_out.append(value or "")
                option, value = "--config", _dump(_without_section(part.config))
            elif _name_in(part.config):
                option, value = "--config", _dump(_flattened(part.config))
        rest += [word for word in (option, value) if word is not None]
    return Choice(named, rest, left_out)


def _check_sections(file: str, config: Mapping[str, Any] | None) -> None:
    """Refuse a section for a command that holds no options: the parser takes it for a mapping."""
    for name, section in (config or {}).items():
        if name in COMMANDS and not isinstance(section, dict):
            raise UserError(f"{file}: the section {name} must hold options of this command; got {section!r}")


class _Part:
    """An option with its value, what a config file holds, and the algorithm named up to here."""

    def __init__(self, words: tuple[str | None, str | None], algorithm: str | None) -> None:
        self.words = words
        self.algorithm = algorithm
        self.config: dict[str, Any] | None = None


def _grouped(arguments: list[str]) -> Iterator[tuple[str | None, str | None]]:
    """Yield the words one by one, the options that matter here together with their values."""
    index = 0
    while index < len(arguments):
        word = arguments[index]
        name, equals, value = word.partition("=")
        if name in ("--config", "-c", f"--{OWN_SECTION}", f"--{OWN_SECTION}.class_path"):
            if equals:
                yield name, value
            elif index + 1 < len(arguments):
                index += 1
                yield name, arguments[index]
            else:
                yield word, None
        else:
            yield word, None
        index += 1


def _read(value: str) -> dict[str, Any] | None:
    """Return the mapping in a config file, or in a text; None where it is neither: the parser will say what is wrong."""
    try:
        content = yaml.safe_load(Path(value).read_text() if Path(value).is_file() else value)
    except (OSError, UnicodeDecodeError, ValueError, yaml.YAMLError):
        return None
    return content if isinstance(content, dict) else None


def _is_name(value: str) -> bool:
    """Return whether a value of ``--model`` names a class; it may be a mapping of options too, or a file with one."""
    return all(part.isidentifier() for part in value.split(".")) and not Path(value).is_file()


def _has_section(config: Mapping[str, Any]) -> bool:
    return config.get(OWN_SECTION) is not None


def _name_in(config: Mapping[str, Any] | None) -> str | None:
    section = None if config is None else config.get(OWN_SECTION)
    name = section.get("class_path") if isinstance(section, dict) else section
    return name if isinstance(name, str) else None


def _without_section(config: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in config.items() if key != OWN_SECTION}


def _flattened(config: Mapping[str, Any]) -> dict[str, Any]:
    section = config[OWN_SECTION]
    if not isinstance(section, dict):
        return _without_section(config)
    options = {key: value for key, value in section.items() if key not in ("class_path", "init_args")}
    return {**config, OWN_SECTION: {**options, **(section.get("init_args") or {})}}


def _dump(config: Mapping[str, Any]) -> str:
    text: str = yaml.safe_dump(dict(config), sort_keys=False)
    return text


def _short(name: str) -> str:
    return name.rpartition(".")[2]
