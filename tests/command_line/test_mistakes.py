"""What a mistake is answered with: two lines, the nearest right name, status 2."""

from typing import Any, Literal

import pytest
from lightning.pytorch.callbacks import Callback

from edp_lightning.cli import main
from edp_lightning.command_line.mistakes import nearest_option
from edp_lightning.command_line.parsers import CommandParser
from edp_lightning.command_line.trainer_parser import TrainerParser


class Method:
    """A method of somebody's own.

    Args:
        expectile: Which expectile the value is.
        schedule: How the rate changes.
        width: Units per layer.
        decay: Rate of decay.
    """

    def __init__(
        self,
        expectile: float = 0.7,
        schedule: Literal["cosine", "constant"] = "cosine",
        width: int | None = None,
        decay: float = 0.0,
    ) -> None:
        pass


class Data:
    """A dataset.

    Args:
        dataset: Its name.
        decay: Rate of decay.
        width: Units per layer.
    """

    def __init__(self, dataset: str, decay: float = 0.0, width: int | None = None) -> None:
        pass


@pytest.fixture
def parser() -> TrainerParser:
    """Two commands like the Trainer's, with the options of another algorithm."""
    top = TrainerParser(prog="edp_lightning", parser_mode="omegaconf+")
    top.add_argument("-c", "--config", action="config")
    commands = top.add_subcommands()
    for name in ("fit", "test"):
        below = TrainerParser(parser_mode="omegaconf+")
        below.add_argument("-c", "--config", action="config")
        below.add_class_arguments(Method, "model", sub_configs=True)
        below.add_class_arguments(Data, "data", sub_configs=True)
        below.add_argument("--callbacks", type=list[Callback] | None)
        below.add_argument("--seed", type=int, default=0)
        below.link_arguments("model.width", "data.width")
        commands.add_subcommand(name, below)
    return top


def complaint(capsys: pytest.CaptureFixture[str], call: Any) -> list[str]:
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        call()
    assert stop.value.code == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert "__main__" not in output.err
    lines = output.err.splitlines()
    assert len(lines) == 2
    assert lines[0].startswith("error: ")
    return lines


@pytest.mark.parametrize(
    ("words", "says", "help_of"),
    [
        (
            "fit --model.expctile 1",
            "edp_lightning fit has no option --model.expctile; did you mean --model.expectile?",
            "=model",
        ),
        ("fit --modle.expectile=1", "did you mean --model.expectile?", "=model"),
        ("fit --expectile 1", "did you mean --model.expectile?", "=model"),
        ("fit -model.expectile 1", "did you mean --model.expectile?", "=model"),
        ("fit --decay 1", "did you mean --model.decay or --data.decay?", "=model"),
        ("fit --zzz 1", "edp_lightning fit has no option --zzz", ""),
        ("fit --model.schedule cosin", "must be one of cosine, constant; got cosin; did you mean cosine?", "=model"),
        ("fit --model.expectile x", "model.expectile must be a number; got x", "=model"),
        ("fit --model.width x", "model.width must be an integer or null; got x", "=model"),
        ("fit --model.width", "--model.width needs a value", "=model"),
        ("fit", "edp_lightning fit needs --data.dataset, or data.dataset in a --config file", "=data"),
        ("fit run.yaml --data.dataset a", "'run.yaml'; did you mean --config run.yaml?", ""),
        ("fit --data.dataset=${data.dtaset}", "cannot be resolved: Interpolation key 'data.dtaset' not found", None),
        (
            "fit --data.dataset=a --callbacks+=lightning.pytorch.callbacks.Timer --callbacks.duratoin=3",
            "lightning.pytorch.callbacks.Timer has no argument 'duratoin'; did you mean duration?",
            None,
        ),
    ],
)
def test_mistakes_on_the_command_line(words, says, help_of, parser, capsys):
    first, second = complaint(capsys, lambda: parser.parse_args(words.split()))
    assert says in first
    if help_of is not None:
        assert second == f"all options: edp_lightning fit --help{help_of}"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--confg a.yaml fit", "edp_lightning has no option --confg; did you mean --config?"),
        ("--model.expectile=1 fit", "--model.expectile must stand after the command"),
        ("--config {fitt:{model:{width:3}}} fit", "no option fitt.model.width; did you mean fit.model.width?"),
    ],
)
def test_mistakes_before_the_command(words, says, parser, capsys):
    words = [word.replace(":", ": ") for word in words.split()]
    first, second = complaint(capsys, lambda: parser.parse_args(words))
    assert says in first
    assert second == "all options: edp_lightning --help"


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("model: {expectil: 1}", "edp_lightning fit has no option model.expectil; did you mean model.expectile?"),
        ("modle: {expectile: 1}", "did you mean model.expectile?"),
        ("model: {expectile: big}", "model.expectile must be a number; got big"),
        ("model: {", "Problems parsing config"),
        ("model: 3", "the section model of the config must be a mapping of options"),
    ],
)
def test_mistakes_in_a_config(config, says, parser, capsys, tmp_path):
    path = tmp_path / "own.yaml"
    path.write_text(config)
    assert says in complaint(capsys, lambda: parser.parse_args(["fit", "--data.dataset=a", f"--config={path}"]))[0]


def test_options_of_a_class_that_is_chosen_by_class_path_are_known(capsys):
    parser = CommandParser(prog="edp_lightning fit")
    parser.add_subclass_arguments(Callback, "model")
    parser.set_defaults(model={"class_path": "lightning.pytorch.callbacks.EarlyStopping", "init_args": {"monitor": "a"}})
    assert "did you mean patience?" in complaint(capsys, lambda: parser.parse_args(["--model.patinece=3"]))[0]
    assert "did you mean --model.patience?" in complaint(capsys, lambda: parser.parse_args(["--modle.patience=3"]))[0]


def test_an_option_in_another_section_beats_one_that_is_spelt_alike():
    options = ["--data_report.every_n_steps", "--guard.every_n_steps", "--model.eta", "--model.beta"]
    assert nearest_option("--gaurd.every_n_steps", options) == ["guard.every_n_steps"]
    assert nearest_option("--every_n_steps", options) == ["data_report.every_n_steps", "guard.every_n_steps"]
    assert nearest_option("--model.etaa", options) == ["model.eta"]
    assert nearest_option("--xyz", options) == []


@pytest.mark.parametrize(
    ("words", "says", "where"),
    [
        ("fit --model.num_crit 4", "did you mean --model.num_critics?", "edp_lightning fit --help=model"),  # no abbreviations
        ("fit --model.num_critcs 4", "did you mean --model.num_critics?", "edp_lightning fit --help=model"),
        (
            "fit --model tests.cloning.LinearCloning --model.ler 1",
            "did you mean --model.lr?",
            "edp_lightning fit --model tests.cloning.LinearCloning --help=model",
        ),
        ("collect antmaze-umaze-divers", "did you mean antmaze-umaze-diverse?", "antmaze-large-diverse"),
        ("collect", "edp_lightning collect needs NAME", "edp_lightning collect --help"),
        ("collect toy --stps 3", "did you mean --steps?", "edp_lightning collect --help"),
        ("data shw", "edp_lightning data has no command 'shw'; did you mean show?", "edp_lightning data --help"),
        ("data", "edp_lightning data needs one of show, convert", "edp_lightning data --help"),
        ("data show --viev=a b", "did you mean --view?", "edp_lightning data show --help"),
        ("data show", "edp_lightning data show needs SOURCE", "edp_lightning data show --help"),
        ("toy --sedes 3", "did you mean --seeds?", "edp_lightning toy --help"),
        ("figure", "edp_lightning figure needs one of run, tsne", "edp_lightning figure --help"),
        ("figure tnse", "edp_lightning figure has no command 'tnse'; did you mean tsne?", "edp_lightning figure --help"),
        ("figure tsne", "edp_lightning figure tsne needs --dataset", "edp_lightning figure tsne --help"),
        ("figure tsne --dataset a --sates 3", "did you mean --states?", "edp_lightning figure --help"),
    ],
)
def test_every_command_answers_in_two_lines(words, says, where, capsys):
    first, second = complaint(capsys, lambda: main(words.split()))
    assert says in first
    assert where in second
