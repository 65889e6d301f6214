"""The first page: every command with what it does, and commands that do not exist."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
from lightning.pytorch.cli import LightningCLI

from edp_lightning.cli import main
from edp_lightning.command_line.commands import COMMANDS

ROOT = Path(__file__).parents[2]


def test_the_overview_names_every_command_and_what_it_does(capsys):
    main(["--help"])
    text = capsys.readouterr().out
    assert text.startswith("edp_lightning ")
    assert "README.md" in text
    for name, command in COMMANDS.items():
        assert re.search(rf"^  {name} +{re.escape(command.summary)}$", text, re.M)
    assert max(map(len, text.splitlines())) <= 120
    assert "__main__" not in text


def test_the_table_has_exactly_the_trainers_commands_and_those_with_a_function():
    assert {name for name, command in COMMANDS.items() if command.run is None} == set(LightningCLI.subcommands())


def test_no_command_shows_the_overview_and_fails(capsys):
    with pytest.raises(SystemExit) as stop:
        main([])
    assert stop.value.code == 2
    assert "collect" in capsys.readouterr().err


@pytest.mark.parametrize(("word", "nearest"), [("fitt", "fit"), ("colect", "collect"), ("evaluate", None)])
def test_a_misspelt_command_names_the_nearest_in_two_lines(word, nearest, capsys):
    with pytest.raises(SystemExit) as stop:
        main([word, "--config=x.yaml"])
    assert stop.value.code == 2
    first, second = capsys.readouterr().err.splitlines()
    assert repr(word) in first
    assert first.endswith(f"did you mean {nearest}?") == (nearest is not None)
    assert second == "all commands: edp_lightning --help"


def test_the_first_page_imports_no_framework():
    probe = (
        "import runpy, sys\n"
        "sys.argv = ['edp_lightning', *sys.argv[1:]]\n"
        "try:\n    runpy.run_module('edp_lightning', run_name='__main__')\n"
        "except SystemExit as stop:\n    print('status', stop.code)\n"
        "print('heavy', *sorted({'torch', 'lightning', 'numpy', 'jsonargparse', 'edp_lightning.cli'} & set(sys.modules)))\n"
    )
    for arguments, expected in ((["--help"], "collect"), (["--version"], "edp_lightning "), (["fitt"], "status 2")):
        done = subprocess.run([sys.executable, "-c", probe, *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
        assert expected in done.stdout
        assert done.stdout.splitlines()[-1] == "heavy"
