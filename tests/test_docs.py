"""The pages name options, commands and files that exist. That links lead somewhere is checked when the site is built."""

import contextlib
import inspect
import io
import re
import shlex
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch

from edp_lightning.algorithms.registry import built_in
from edp_lightning.callbacks.forced import FORCED_CALLBACKS
from edp_lightning.cli import main
from edp_lightning.data.datamodule import OfflineDataModule
from tests.conftest import scalars

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("[!_]*.md")),
    *sorted((ROOT / "docs").glob("[!_]*/*.md")),
]
NAMES = [page.relative_to(ROOT).as_posix() for page in PAGES]

FIT_OPTIONS = {"config", "ckpt_path", "seed_everything", "output", "run_name", "print_config", "model", "help", "version"}
"""Options of fit, validate, test and predict that belong to no section."""

COMMANDS = {
    *("fit", "validate", "test", "predict", "evaluate_offline", "collect", "data"),
    *("sweep", "report", "toy", "figure", "export", "film", "info"),
}
WITH_SECOND_WORD = {"data", "figure"}
PLACES = (
    "",
    "edp_lightning",
    "benchmarks",
    "docs",
    "edp_lightning/algorithms",
    "edp_lightning/environments",
    "edp_lightning/policies",
)
"""Folders that a page may leave out before a path."""

PLACEHOLDER = re.compile(r"[A-Z]{2,}|\.\.\.|^~|^/|seed0|^runs|^build|:")
"""Paths of a run, of the user's machine, or with a word in capitals to be filled in."""


@cache
def options_of_sections() -> dict[str, set[str]]:
    def names(*classes: type) -> set[str]:
        return {name for c in classes for name in inspect.signature(c.__init__).parameters} - {"self"}

    sections = {section: names(callback) for section, callback in FORCED_CALLBACKS.items()}
    return sections | {"model": names(*built_in().values()), "data": names(OfflineDataModule), "trainer": names(L.Trainer)}


def code(text: str) -> Iterator[str]:
    """Yield the code of a page: spans, fenced and indented blocks."""
    yield from re.findall(r"^```\w*\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    rest = re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)
    for line in rest.splitlines():
        if line.startswith("    "):
            yield line
        else:
            yield from re.findall(r"`([^`]+)`", line)


def commands(text: str) -> Iterator[list[str]]:
    """Yield the arguments of each command of this program, lines that end in a backslash joined."""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        found = re.search(r"-m edp_lightning ([^`]*)", line.partition("  #")[0])
        if found and (line.startswith("    ") or "`" in line):
            yield shlex.split(found[1])


@cache
def help_of(*words: str) -> str:
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown), pytest.raises(SystemExit) as stop:
        main([*words, "--help"])
    assert stop.value.code == 0, words
    return shown.getvalue()


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_options_exist(page):
    sections = options_of_sections()
    pattern = re.compile(r"(?<![\w./])(?:--)?(" + "|".join(sections) + r")\.([a-z_]\w*)(?![\w/(])")
    named = {(section, option) for part in code(page.read_text()) for section, option in pattern.findall(part)}
    unknown = {f"{section}.{option}" for section, option in named if option not in sections[section] | {"callbacks"}}
    assert unknown - {f"{section}.{ending}" for section in sections for ending in ("py", "yaml")} == set()


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_files_exist(page):
    missing = []
    for part in code(page.read_text()):
        for word in re.findall(r"[\w./*~{},:-]+", part):
            alternatives = [word]
            if braces := re.search(r"\{([^}]*)\}", word):
                alternatives = [word.replace(braces[0], choice) for choice in braces[1].split(",")]
            for path in (alternative.rstrip(",:") for alternative in alternatives):
                named = (re.search(r"\.(py|md|yaml|ipynb|cpp|h)$", path) and "/" in path) or path.startswith("configs/")
                if named and not PLACEHOLDER.search(path) and not any(any((ROOT / p).glob(path.rstrip("/"))) for p in PLACES):
                    missing.append(path)
    assert missing == []


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_and_their_options_exist(page):
    for arguments in commands(page.read_text()):
        command = arguments[0]
        assert command in COMMANDS or command == "--help", arguments
        options = {word[2:].partition("=")[0] for word in arguments if re.match(r"--[a-z]", word)}
        if command in ("fit", "validate", "test", "predict"):
            plain = {option for option in options if "." not in option}
            assert plain <= FIT_OPTIONS, arguments
        elif command in COMMANDS:
            second = command in WITH_SECOND_WORD or arguments[:2] == ["collect", "train"]
            text = help_of(*arguments[: 1 + second])
            assert [option for option in options if f"--{option}" not in text] == [], arguments


def test_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def test_the_figure_of_the_readme_is_small():
    (picture,) = re.findall(r"!\[[^]]*\]\(([^)]+)\)", (ROOT / "README.md").read_text())
    assert 10_000 < (ROOT / picture).stat().st_size < 300_000


def blocks(page: str) -> list[str]:
    return re.findall(r"^```python\n(.*?)^```", (ROOT / page).read_text(), re.DOTALL | re.MULTILINE)


def test_the_algorithm_of_the_page_trains(tmp_path, monkeypatch, pendulum_set):
    """As the page says: a file of the user's own, named on the command line; it learns, and goes on bit for bit."""
    (source,) = blocks("docs/adding_an_algorithm.md")
    (tmp_path / "my_package.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "my_package", raising=False)

    def train(name: str, steps: int, *more: str) -> list[tuple[int, float]]:
        main(
            [
                "fit", "--model=my_package.LeastSquares", "--model.width=16", "--model.lr=0.01", "--trainer.accelerator=cpu",
                f"--data.dataset={pendulum_set}", "--data.batch_size=8", "--data.steps_per_epoch=20",
                "--trainer.log_every_n_steps=20", "--trainer.enable_model_summary=false", f"--output={tmp_path}",
                f"--run_name={name}", f"--trainer.max_steps={steps}", *more,
            ]
        )  # fmt: skip
        return scalars(tmp_path / "tests-pendulum-v0" / f"{name}-seed0")["actor/loss"]

    whole = train("whole", 200)
    train("parts", 100)
    assert train("parts", 200, "--ckpt_path=last") == whole
    assert len(whole) == 10
    assert whole[-1][1] < 0.8 * whole[0][1]


def test_what_the_readme_does_with_own_data_works(tmp_path, monkeypatch, capsys):
    """Its arrays are a dataset, and its lines of Python train on them and act."""
    monkeypatch.chdir(tmp_path)
    arrays, training = blocks("README.md")
    exec(arrays, {})
    main(["data", "show", "npz:robot.npz"])
    assert re.search(r"episodes\W+20\b", capsys.readouterr().out)
    assert "max_steps=1000" in training
    names = exec_in(training.replace("max_steps=1000", "max_steps=2"))
    assert names["action"].shape == (2,)
    assert (abs(names["action"]) <= 1).all()


def test_the_pages_lines_of_python_work(tmp_path, monkeypatch, pendulum_set):
    monkeypatch.chdir(tmp_path)
    training, episode, _ = blocks("docs/python.md")
    torch.manual_seed(0)
    names = exec_in(training)
    assert names["trainer"].global_step == 200
    assert abs(names["action"] - 0.5) < 0.3  # of one draw; the mean over many is nearer
    import gymnasium as gym

    class Still:
        """Never pushes the pendulum."""

        def reset(self, seed):
            self.seed = seed

        def act(self, observation):
            assert observation.shape == (3,)
            return np.zeros(1, dtype=np.float32)

    env, still = gym.make("Pendulum-v1"), Still()
    total = exec_in(episode)["play"](still, env, seed=3)
    assert -2000 < total < 0
    assert still.seed == 3


def exec_in(source: str) -> dict[str, Any]:
    names: dict[str, Any] = {}
    exec(source, names)
    return names
