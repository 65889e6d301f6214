"""What a parser's message means, in one line for the user: pure functions over argparse's and jsonargparse's messages."""

import argparse
import importlib
import inspect
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from edp_lightning.errors import did_you_mean, nearest

KINDS = {
    "<class 'int'>": "an integer",
    "<class 'float'>": "a number",
    "<class 'bool'>": "true or false",
    "<class 'str'>": "text",
    "<class 'list'>": "a list",
    "<class 'dict'>": "a mapping",
    "<class 'NoneType'>": "null",
}
"""How jsonargparse writes a type -> how a user does."""


class Mistake(NamedTuple):
    """What is wrong.

    Attributes:
        parser: Parser of the command that it happened in.
        text: One line.
        option: The right option, or the section of the wrong one, to say where its help is; empty if that is not known.
    """

    parser: argparse.ArgumentParser
    text: str
    option: str = ""


def name_of(parser: argparse.ArgumentParser) -> str:
    """Return the program's name and the command as a user types them."""
    return parser.prog.replace(" [options]", "")


def commands_of(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of a parser's commands by name; empty if it has none."""
    found: dict[str, argparse.ArgumentParser] = {}
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            found.update(action.choices)
    return found


def options_of(parser: argparse.ArgumentParser) -> list[str]:
    """Return every option that a user may write, those of classes that an option names by ``class_path`` included."""
    found = []
    for action in parser._actions:
        if action.help != argparse.SUPPRESS:
            found += [name for name in action.option_strings if name.startswith("--") and not name.endswith((".help", "+"))]
        found += [f"--{action.dest}.{name}" for name in _parameters(_class_path(action.default))]
    return found


def _class_path(value: Any) -> str:
    path = value.get("class_path") if isinstance(value, dict) else getattr(value, "class_path", None)
    return path if isinstance(path, str) else ""


def _parameters(class_path: str) -> list[str]:
    """Return the names of a class's arguments; none if it is not to be had."""
    module, _, name = class_path.rpartition(".")
    if not module:
        return []
    try:
        signature = inspect.signature(getattr(importlib.import_module(module), name))
    except (ImportError, AttributeError, TypeError, ValueError):
        return []
    return list(signature.parameters)


def nearest_option(word: str, options: Iterable[str]) -> list[str]:
    """Return the options that a misspelt one most likely means, at most three, without dashes before them.

    An option of the same last part in another section beats one that is merely spelt alike.

    Args:
        word: What was written, with or without dashes.
        options: All options.
    """
    wanted = word.lstrip("-")
    names = [option.lstrip("-") for option in options]
    last_parts = {name: name.rpartition(".")[2] for name in names}
    last = wanted.rpartition(".")[2]
    same = [name for name in names if name != wanted and last_parts[name] == last]
    if same:
        close = nearest(wanted, same) if "." in wanted else None
        return [close] if close else same[:3]
    close = nearest(wanted, names)
    if close:
        return [close]
    close = nearest(last, last_parts.values())
    return [name for name in names if last_parts[name] == close][:3]


def explain(parser: argparse.ArgumentParser, message: str, arguments: Sequence[str] = ()) -> Mistake:
    """Return what a parser's message means.

    Args:
        parser: The parser that complains.
        message: Its message, of any number of lines.
        arguments: What it was given.
    """
    for pattern, rule in RULES:
        match = pattern.search(message)
        if match:
            return rule(parser, match, arguments)
    return Mistake(parser, _one_line(message))


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _resolve(parser: argparse.ArgumentParser, key: str) -> tuple[argparse.ArgumentParser, str]:
    """Return the parser of the command that a key begins with, and the rest of the key."""
    first, dot, rest = key.partition(".")
    below = commands_of(parser)
    return (below[first], rest) if dot and first in below else (parser, key)


def _unknown_option(parser: argparse.ArgumentParser, word: str, dashes: str) -> Mistake:
    below = dict.fromkeys(option for command in commands_of(parser).values() for option in options_of(command))
    if word in below:
        return Mistake(parser, f"{word} must stand after the command", word.lstrip("-"))
    near = nearest_option(word, options_of(parser)) or nearest_option(word, below)
    asked = f"; did you mean {' or '.join(dashes + name for name in near)}?" if near else ""
    return Mistake(parser, f"{name_of(parser)} has no option {word}{asked}", near[0] if near else word.lstrip("-"))


def _unrecognized(parser: argparse.ArgumentParser, match: "re.Match[str]", arguments: Sequence[str]) -> Mistake:
    first = match[1].split()[0]
    if first.startswith("-"):
        return _unknown_option(parser, first.partition("=")[0], "--")
    config = f"; did you mean --config {first}?" if first.endswith((".yaml", ".yml")) else ""
    return Mistake(parser, f"{name_of(parser)} does not know what to do with {first!r}{config}")


def _unknown_key(parser: argparse.ArgumentParser, match: "re.Match[str]", arguments: Sequence[str]) -> Mistake:
    return _unknown_option(parser, match[1], "")


def _unknown_before_command(parser: argparse.ArgumentParser, match: "re.Match[str]", arguments: Sequence[str]) -> Mistake:
    first, dot, rest = match[1].partition(".")
    command = nearest(first, commands_of(parser))
    if dot and command:
        return Mistake(parser, f"{name_of(parser)} has no option {match[1]}; did you mean {command}.{rest}?")
    return _unknown_option(parser, match[1], "")


def _no_mapping(parser: argparse.ArgumentParser, match: "re.Match[str]", arguments: Sequence[str]) -> Mistake:
    owner, key = _resolve(parser, match[1])
    section = key.rpartition(".")[0] or key
    return Mistake(owner, f"the section {section} of the config must be a mapping of options, {key} among them", key)


def _unknown_argument(parser: argparse.ArgumentParser, match: "re.Match[str]", arguments: Sequence[str]) -> Mistake:
    path, name = match[1], match[2]
    text = f"{path} has no argument {name!r}{did_you_mean(name, _parameters(path))}"
    key = re.search(r'Parser key "([^"]+)"', match.string)
    owner, option = _resolve(parser, key[1] if key else "")
    return Mistake(owner, f"{option}: {text}" if option else text, option)


def _wrong_choice(parser: argparse.ArgumentParser, match: "re.Match[str]", arguments: Sequence[str]) -> Mistake:
    name, given = match[1], match[2]
    choices = re.findall(r"[^\s,']+", match[3])
    if name.startswith("-"):
        return Mistake(parser, f"{name} must be one of {', '.join(choices)}; got {given!r}", name.lstrip("-"))
    known = {option for action in parser._actions for option in action.option_strings}
    for word in arguments:  # the value of an option that does not exist was taken for the command
        if word == given:
            break
        if word.startswith("-") and word.partition("=")[0] not in known:
            return _unknown_option(parser, word.partition("=")[0], "--")
    below = list(commands_of(parser))
    near = did_you_mean(given, below) or f"; choose one of {', '.join(below)}"
    return Mistake(parser, f"{name_of(parser)} has no command {given!r}{near}")


def _missing(parser: argparse.ArgumentParser, match: "re.Match[str]", arguments: Sequence[str]) -> Mistake:
    owner, wanted, option = parser, [], ""
    for key in match[1].split(", "):
        owner, rest = _resolve(parser, key.lstrip("-"))
        if any(rest in (a.dest, a.metavar) for a in owner._actions if isinstance(a, argparse._SubParsersAction)):
            return _no_command(owner, match, arguments)
        options = options_of(owner)
        if f"--{rest}" not in options:
            wanted.append(rest.upper())
            continue
        option = rest
        wanted.append(f"--{rest}, or {rest} in a --config file" if "--config" in options else f"--{rest}")
    return Mistake(owner, f"{name_of(owner)} needs {' and '.join(wanted)}", option)


def _no_command(parser: argparse.ArgumentParser, match: "re.Match[str]", arguments: Sequence[str]) -> Mistake:
    return Mistake(parser, f"{name_of(parser)} needs one of {', '.join(commands_of(parser))} after it")


def _no_value(parser: argparse.ArgumentParser, match: "re.Match[str]", arguments: Sequence[str]) -> Mistake:
    return Mistake(parser, f"{match[1].split('/')[-1]} needs a value", match[1].split("/")[-1].lstrip("-"))


def _wrong_literal(parser: argparse.ArgumentParser, match: "re.Match[str]", arguments: Sequence[str]) -> Mistake:
    owner, key = _resolve(parser, match[1])
    choices = [part.strip(" '\"") for part in match[2].split(",")]
    near = did_you_mean(match[3].strip(), choices)
    return Mistake(owner, f"{key} must be one of {', '.join(choices)}; got {match[3].strip()}{near}", key)


def _wrong_type(parser: argparse.ArgumentParser, match: "re.Match[str]", arguments: Sequence[str]) -> Mistake:
    owner, key = _resolve(parser, match[1])
    return Mistake(owner, f"{key} must be {KINDS.get(match[2], match[2])}; got {_one_line(match[3])}", key)


def _wrong_union(parser: argparse.ArgumentParser, match: "re.Match[str]", arguments: Sequence[str]) -> Mistake:
    owner, key = _resolve(parser, match[1])
    kinds = [KINDS.get(kind, kind) for kind in re.split(r", (?![^\[]*\])", match[2])]
    return Mistake(owner, f"{key} must be {' or '.join(kinds)}; got {_one_line(match[3])}", key)


def _other_value(parser: argparse.ArgumentParser, match: "re.Match[str]", arguments: Sequence[str]) -> Mistake:
    owner, key = _resolve(parser, match[1])
    return Mistake(owner, f"{key}: {_one_line(match[2])}", key)


Rule = Callable[[argparse.ArgumentParser, "re.Match[str]", Sequence[str]], Mistake]

RULES: tuple[tuple["re.Pattern[str]", Rule], ...] = (
    (re.compile(r"^unrecognized arguments: (.+)", re.S), _unrecognized),
    (re.compile(r"Subcommand '\w+' does not accept option '([^']+)'"), _unknown_key),
    (re.compile(r"^Option '([^']+)' is not accepted before subcommand"), _unknown_before_command),
    (re.compile(r"^Option '([^']+)' is not accepted"), _unknown_key),
    (re.compile(r'^Key "([^"]+)" not found in namespace'), _no_mapping),
    (re.compile(r"given class_path '([^']+)':\s+Option '([^']+)' is not accepted"), _unknown_argument),
    (re.compile(r"^argument (\S+): invalid choice: '?([^'\s]+)'? \(choose from (.*)\)"), _wrong_choice),
    (re.compile(r"^the following arguments are required: (.+)"), _missing),
    (re.compile(r'^expected "(\S*)subcommand" to be one of'), _no_command),
    (re.compile(r"^argument (\S+): expected (?:one|at least one) argument"), _no_value),
    (re.compile(r'^Parser key "([^"]+)":\s+Expected a typing\.Literal\[(.+)\]\. Got value: (.*)', re.S), _wrong_literal),
    (re.compile(r'^Parser key "([^"]+)":\s+Expected a (<class .+>)\. Got value: (.*)', re.S), _wrong_type),
    (re.compile(r'^Parser key "([^"]+)":.*Subtypes: \[(.+?)\]\n.*Given value: (.*)', re.S), _wrong_union),
    (re.compile(r'^Parser key "([^"]+)":\s+(.*)', re.S), _other_value),
)
"""What a message looks like -> what is made of it; the first that fits."""
