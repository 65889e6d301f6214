"""The table of commands: one entry is all it takes to add one."""

from collections.abc import Callable
from typing import Any, NamedTuple

PROGRAM = "edp_lightning"

RunCommand = Callable[[list[str]], None]
"""Runs another command line of this package in the same process."""


class Command(NamedTuple):
    """One command.

    Attributes:
        group: Heading that it is listed under.
        summary: What it does, in one line.
        run: Called with the arguments after the command's name, and with what runs another command line. None for the
            methods of the Trainer, which share their options and are run by ``edp_lightning.cli``.
    """

    group: str
    summary: str
    run: Callable[[list[str], RunCommand], None] | None = None


def _call(name: str, functions: Any, arguments: list[str]) -> None:
    """Call a function, or the one of several that the first argument names, with options made from its signature."""
    import jsonargparse

    from edp_lightning.command_line.parsers import CommandParser

    jsonargparse.auto_cli(functions, args=arguments, prog=f"{PROGRAM} {name}", parser_class=CommandParser)


def _add_model(parser: Any) -> None:
    parser.add_argument("--model", metavar="CLASS", help="import path of an algorithm of your own")


def _import_model(options: dict[str, Any]) -> None:
    """Take ``model`` out of the options: a checkpoint names its class, which must have been imported."""
    from edp_lightning.algorithms.registry import algorithm_class

    if (model := options.pop("model")) is not None:
        algorithm_class(model)


def _collect(arguments: list[str], run_command: RunCommand) -> None:
    if arguments[:1] == ["train"]:
        from edp_lightning.collect.training.command import train

        _call("collect train", train, arguments[1:])
        return
    from edp_lightning.collect import collect

    _call("collect", collect, arguments)


def _evaluate_offline(arguments: list[str], run_command: RunCommand) -> None:
    from edp_lightning.evaluation.offline_evaluation import evaluate_offline

    _call("evaluate_offline", evaluate_offline, arguments)


def _data(arguments: list[str], run_command: RunCommand) -> None:
    from edp_lightning.data.command import convert, show

    _call("data", {"show": show, "convert": convert}, arguments)


def _toy(arguments: list[str], run_command: RunCommand) -> None:
    from edp_lightning.command_line.parsers import CommandParser
    from edp_lightning.figures.toy import toy

    parser = CommandParser(prog=f"{PROGRAM} toy", description=(toy.__doc__ or "").partition("\n")[0])
    parser.add_argument("--config", action="config", help="Path to a file with options of this command.")
    parser.add_function_arguments(toy, as_group=False, skip={"run_command"}, fail_untyped=False)
    options = parser.parse_args(arguments).as_dict()
    options.pop("config")
    toy(run_command, **options)


def _figure(arguments: list[str], run_command: RunCommand) -> None:
    from edp_lightning.command_line.parsers import PlainParser

    parser = PlainParser(prog=f"{PROGRAM} figure", description="Draw runs, or the states of datasets.")
    figures = parser.add_subparsers(dest="figure", required=True, title="figures", metavar="FIGURE")
    summary = "Draw a run: episodes of its policy in its maze, its score and the error of its critics over training."
    run = figures.add_parser("run", help=summary, description=summary)
    run.add_argument("folder", help="the run's folder, OUTPUT/DATASET/RUN_NAME-seedSEED")
    run.add_argument("--checkpoint", choices=("last", "best"), default="last", help="whose policy plays (default: last)")
    run.add_argument("--episodes", type=int, default=20, help="episodes to play (default: 20)")
    run.add_argument("--seed", type=int, default=10_000, help="seed of the first episode (default: 10000, as evaluations)")
    run.add_argument("--output", default="run.png", help="picture to write (default: run.png)")
    _add_model(run)
    summary = "Draw random states of datasets by t-SNE, coloured by the return of their trajectory."
    tsne = figures.add_parser("tsne", help=summary, description=summary)
    tsne.add_argument("--dataset", nargs="+", action="extend", required=True, help="a set on this machine; repeatable")
    tsne.add_argument("--states", type=int, default=1000, help="random states per dataset (default: 1000)")
    tsne.add_argument("--view", help="observation view of all sets; each one's default when not given")
    tsne.add_argument("--seed", type=int, default=0, help="seed of the states and of t-SNE (default: 0)")
    tsne.add_argument("--output", default="tsne.png", help="picture to write (default: tsne.png)")
    summary = "Draw runs that learned online: their score over environment steps, from the offline policy's on."
    online = figures.add_parser("online", help=summary, description=summary)
    online.add_argument("folders", nargs="+", help="folders of runs with online.env_steps")
    online.add_argument("--output", default="curve.png", help="picture to write (default: curve.png)")
    options = vars(parser.parse_args(arguments))
    figure = options.pop("figure")
    if figure == "run":
        from edp_lightning.figures.run_figure import draw_run_folder

        _import_model(options)
        draw_run_folder(**options)
        return
    if figure == "online":
        from edp_lightning.figures.online_figure import draw_online_folders

        draw_online_folders(**options)
        return
    from edp_lightning.figures.tsne import draw_datasets

    draw_datasets(options["dataset"], options["states"], options["view"], options["seed"], options["output"])


def _sweep(arguments: list[str], run_command: RunCommand) -> None:
    from edp_lightning.command_line.parsers import PlainParser

    parser = PlainParser(prog=f"{PROGRAM} sweep", description="Run tasks x algorithms x seeds; the same command goes on.")
    parser.add_argument("file", help="what to run: a sweep file such as configs/sweeps/toy.yaml")
    engines = ("local", "ray", "slurm")
    parser.add_argument("--engine", choices=engines, default="local", help="slurm prints a file for sbatch (default: local)")
    parser.add_argument("--workers", type=int, help="trials at a time (default: 1; as many as fit with the other engines)")
    parser.add_argument("--threads", type=int, help="threads per trial (default: the cores shared out over the workers)")
    parser.add_argument("--gpus_per_trial", type=float, default=0.0, help="for ray, which takes fractions, and slurm")
    parser.add_argument("--trial", type=int, help="run only the trial with this number, as --dry-run counts them")
    parser.add_argument("--digest", help="refuse if the numbers mean other trials by now; SLURM's jobs say it")
    parser.add_argument("--dry-run", action="store_true", help="print every command, run none")
    parser.add_argument("--status", action="store_true", help="print how far the sweep is, run nothing")
    options = vars(parser.parse_args(arguments))
    from edp_lightning.experiments.sweep import sweep

    sweep(**options)


def _report(arguments: list[str], run_command: RunCommand) -> None:
    from edp_lightning.command_line.parsers import PlainParser

    parser = PlainParser(prog=f"{PROGRAM} report", description="Make tables and figures of the result files of many runs.")
    parser.add_argument("folders", nargs="+", help="folders of runs, searched for test_last.json")
    parser.add_argument("--against", choices=("slides",), help="set the published table of the paper's slides beside it")
    parser.add_argument("--output", default="report", help="folder to write (default: report)")
    options = vars(parser.parse_args(arguments))
    from edp_lightning.experiments.report import report

    report(**options)


def _export(arguments: list[str], run_command: RunCommand) -> None:
    from edp_lightning.command_line.parsers import PlainParser

    parser = PlainParser(prog=f"{PROGRAM} export", description="Write a trained policy as one file for other programs.")
    parser.add_argument("--ckpt_path", required=True, metavar="FILE", help="the checkpoint")
    formats = ("onnx", "torch")
    parser.add_argument("--format", choices=formats, default="onnx", help="torch is for torch.export.load (default: onnx)")
    parser.add_argument("--dynamic-batch", action="store_true", help="any number of observations at once (default: one)")
    parser.add_argument("--output", metavar="FILE", help="file to write (default: the checkpoint's with another ending)")
    _add_model(parser)
    options = vars(parser.parse_args(arguments))
    from edp_lightning.export.command import export

    _import_model(options)
    export(**options)


def _info(arguments: list[str], run_command: RunCommand) -> None:
    from edp_lightning.command_line.info import run

    run(arguments)


def _film(arguments: list[str], run_command: RunCommand) -> None:
    from edp_lightning.command_line.parsers import PlainParser

    parser = PlainParser(prog=f"{PROGRAM} film", description="Film episodes of a checkpoint's policy, with what it considers.")
    parser.add_argument("--ckpt_path", required=True, metavar="FILE", help="the checkpoint")
    parser.add_argument("--output", default="film.gif", help="film to write, .gif or .mp4 (default: film.gif)")
    help = "drawn or rendered (default: a plan for mazes and the two-step task)"
    parser.add_argument("--style", choices=("plan", "camera"), help=help)
    parser.add_argument("--episodes", type=int, default=1, help="episodes to play (default: 1)")
    parser.add_argument("--seed", type=int, default=10_000, help="seed of the first episode (default: 10000, as evaluations)")
    parser.add_argument("--every", type=int, default=2, help="decisions between frames (default: 2)")
    parser.add_argument("--fps", type=int, default=20, help="frames per second (default: 20)")
    _add_model(parser)
    options = vars(parser.parse_args(arguments))
    from edp_lightning.figures.film_command import film_checkpoint

    _import_model(options)
    film_checkpoint(**options)


COMMANDS: dict[str, Command] = {
    "fit": Command("train and judge a policy", "Train a policy on a dataset; a run that was stopped goes on."),
    "validate": Command("train and judge a policy", "Play the evaluation's episodes with the policy of a checkpoint."),
    "test": Command("train and judge a policy", "Play more episodes (100 by default) and write their scores to a file."),
    "predict": Command("train and judge a policy", "Write the policy's action for every observation of a dataset."),
    "evaluate_offline": Command(
        "train and judge a policy", "Estimate a policy's return from recorded data, without running it.", _evaluate_offline
    ),
    "export": Command("policies elsewhere", "Write a policy as one file for other programs (ONNX), checked.", _export),
    "collect": Command("datasets", "Collect a dataset on this machine, without downloads, or train what collects.", _collect),
    "data": Command("datasets", "Show and check a dataset, or write it as a Minari set.", _data),
    "sweep": Command("many runs", "Run tasks x algorithms x seeds, each to its end; the same command goes on.", _sweep),
    "report": Command("many runs", "Make tables and figures, with intervals over seeds, of what runs left behind.", _report),
    "toy": Command("figures", "Train on the paper's two-step task and draw its figure: minutes on a CPU.", _toy),
    "figure": Command("figures", "Draw runs, also over environment steps, or the states of datasets (t-SNE).", _figure),
    "film": Command("figures", "Film episodes of a policy, in mazes with what it considers (.gif or .mp4).", _film),
    "info": Command("this machine", "Print versions, devices, acceleration and folders: what a bug report needs.", _info),
}
"""Name -> command, in the order of ``--help``."""
