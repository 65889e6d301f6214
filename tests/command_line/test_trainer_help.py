"""The help of fit and its sisters: what people set first, everything else by section."""

import copy
import re
from typing import Any

import pytest

from edp_lightning.cli import main
from edp_lightning.command_line.sections import EVALUATION_OPTIONS, OPTIONS, chosen_options, option_sections
from edp_lightning.command_line.trainer_parser import TrainerParser


@pytest.fixture(scope="module")
def fit_parser() -> TrainerParser:
    """The parser of ``fit`` as the command line builds it."""
    found: list[TrainerParser] = []

    def keep(parser: TrainerParser, wanted: str | None) -> None:
        found.append(parser)
        parser.exit()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TrainerParser, "print_section", keep)
        with pytest.raises(SystemExit):
            main(["fit", "--help"])
    return found[0]


def shown(capsys: pytest.CaptureFixture[str], call: Any, status: int = 0) -> str:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        call()
    assert (stop.value.code or 0) == status
    output = capsys.readouterr()
    assert "__main__" not in output.out + output.err
    return output.out if status == 0 else output.err


@pytest.mark.parametrize(("command", "wanted"), [("fit", OPTIONS), ("test", EVALUATION_OPTIONS)])
def test_help_begins_with_what_people_set(command, wanted, capsys):
    text = shown(capsys, lambda: main([command, "--help"]))
    assert f"usage: edp_lightning {command}" in text
    options = re.findall(r"^  --([\w.]+)", text, re.M)
    assert list(wanted) == options[: len(wanted)]  # every one of them exists
    assert len(text.splitlines()) < 100
    sections = re.findall(r"^  --help=(\w+)", text, re.M)
    assert {"run", "trainer", "model", "data", "target_update", "evaluation", "all"} <= set(sections)


def test_every_option_is_reachable_by_its_section(fit_parser, capsys):
    everything = shown(capsys, lambda: copy.copy(fit_parser).print_section("all"))
    assert everything.startswith("usage: edp_lightning fit [--config FILE]")
    written = r"^  (?:-\w(?: \w+)?, )?(--[\w.]+)"
    options = set(re.findall(written, everything, re.M))
    assert len(options) > 100
    found = set()
    for section in option_sections(fit_parser):
        text = shown(capsys, lambda section=section: copy.copy(fit_parser).print_section(section))
        part = set(re.findall(written, text, re.M))
        assert part
        assert section == "run" or all(re.match(rf"--{section}(\.|$)", name) for name in part)
        found |= part
    assert found == options


def test_a_section_that_does_not_exist(fit_parser, capsys):
    first, second = shown(capsys, lambda: copy.copy(fit_parser).print_section("modle"), status=2).splitlines()
    assert "did you mean model?" in first
    assert "trainer" in second


def test_an_algorithm_without_the_usual_options_shows_its_first_ones():
    own = [f"model.option_{i}" for i in range(12)]
    names = ["config", "model.observation_dim", "model.discount", *own, "model.kind.help", "trainer.max_steps"]
    chosen = chosen_options(names, OPTIONS, 8)
    assert chosen == ["config", "model.discount", *own[:7], "trainer.max_steps"]
    assert chosen_options(["config", "model.class_path", *own], OPTIONS, 8) == ["config", *own[:8]]
