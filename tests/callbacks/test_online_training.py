"""From an offline checkpoint on in the environment, through the command line."""

import signal

import pytest
import torch

from edp_lightning.callbacks import NumericsGuard
from edp_lightning.callbacks.online_training import OnlineTraining
from edp_lightning.cli import main
from edp_lightning.data.replay import ReplayBuffer
from edp_lightning.data.sources.minari import open_set
from edp_lightning.data.sources.online import open_online
from edp_lightning.environments.families import ObservationView
from edp_lightning.errors import UserError
from edp_lightning.evaluation.online_curve import read_points
from tests.conftest import scalars
from tests.probes import CrashError
from tests.test_resume import curves, flat

pytestmark = pytest.mark.filterwarnings("ignore:rewards collected online may not be those of the data")

DATA = ["--data.environment=Pendulum-v1", "--data.max_episode_steps=7", "--data.n_step=2"]
ONLINE = [
    "--online.env_steps=50",
    "--online.first_env_steps=20",
    "--online.num_envs=2",
    "--online.env_steps_per_gradient_step=2",
]
TRAINED: list[bytes] = []
"""The offline checkpoint, once it was trained."""


@pytest.fixture
def fit(command, pendulum_set):
    """Run ``fit`` on the set, judged in Pendulum; returns the run's folder."""

    def run(name, *options):
        return command("fit", *DATA, *options, dataset=pendulum_set, run_name=name)

    return run


@pytest.fixture
def offline(fit, tmp_path):
    """The checkpoint of five offline steps, in its run's folder."""
    path = tmp_path / "runs" / "tests-pendulum-v0" / "offline-seed0" / "checkpoints" / "last.ckpt"
    if not TRAINED:
        fit("offline", "--trainer.max_steps=5")
        TRAINED.append(path.read_bytes())
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(TRAINED[0])
    return path


def state(folder, *keys):
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    found = {key: checkpoint[key] for key in ("state_dict", "optimizer_states", "global_step")}
    return dict(flat(found | {key: checkpoint["callbacks"][key] for key in keys}))


def differing(a, b):
    assert a.keys() == b.keys()
    return [name for name in a if not torch.equal(a[name], b[name])]


def assert_goes_on(fit, whole, fresh, hook, step):
    crash = ["--trainer.callbacks=tests.probes.CrashAt", f"--trainer.callbacks.hook={hook}", f"--trainer.callbacks.step={step}"]
    with pytest.raises(CrashError):
        fit("parts", *fresh, *crash)
    resumed = fit("parts", "--ckpt_path=last", *ONLINE)
    assert differing(state(resumed, "OnlineTraining"), state(whole, "OnlineTraining")) == []
    assert (resumed / "online_curve.csv").read_text() == (whole / "online_curve.csv").read_text()
    logged = curves(resumed)
    assert logged == curves(whole)
    steps = int(state(whole, "OnlineTraining")["/global_step"])
    assert [step for step, _ in logged["evaluation/return"]] == list(range(4, steps, 5))  # the offline policy's first


@pytest.mark.slow
@pytest.mark.parametrize(
    ("hook", "step", "options"),
    [
        ("on_train_batch_start", 5, []),  # nothing is collected yet
        ("on_validation_start", 15, ["--online.num_workers=1"]),
        ("on_save_checkpoint", 15, ["--online.actions=draw", "--online.action_noise=0.1", "--online.buffer_size=15"]),
        ("on_train_batch_end", 18, ["--data.action_chunk=2", "--online.first_env_steps=0"]),
    ],
)
def test_it_goes_on_from_any_point(fit, offline, hook, step, options):
    if "--data.action_chunk=2" in options:  # its actions are twice as wide
        offline = fit("chunks", "--trainer.max_steps=5", "--data.action_chunk=2") / "checkpoints" / "last.ckpt"
    fresh = [f"--ckpt_path={offline}", *ONLINE, *options]
    whole = fit("whole", *fresh)
    assert_goes_on(lambda name, *more: fit(name, *more, *options), whole, fresh, hook, step)


def test_a_run_that_is_cut_off_goes_on_bit_for_bit(fit, offline, capsys, tmp_path):
    """Weights, what was collected, episodes under way, and curves; and what was collected is a dataset."""
    fresh = [f"--ckpt_path={offline}", *ONLINE]
    whole = fit("whole", *fresh)
    wanted = state(whole, "OnlineTraining")
    assert wanted["/global_step"] == 5 + 15
    assert wanted["/OnlineTraining/collected/episodes/length"].tolist() == [7] * 6 + [4, 4]
    points = read_points(whole)
    assert [(p["env_steps"], p["gradient_steps"]) for p in points] == [(0, 0), (30, 5), (40, 10), (50, 15)]
    assert [p["collected/episodes"] for p in points] == [0, 4, 0, 2]
    logged = scalars(whole)
    assert logged["online/env_steps"] == [(4, 0), (9, 30), (14, 40), (19, 50)]

    assert_goes_on(fit, whole, fresh, "on_train_batch_end", 13)

    capsys.readouterr()
    main(["data", "convert", f"online:{whole}", "mine/online-v0"])
    written = open_set("mine/online-v0")
    assert written.algorithm == "EntropyDiffusionPolicy"
    assert str(written.spec.entry_point).endswith("PendulumEnv")
    episodes = list(written.episodes(ObservationView("box")))
    assert [len(e) for e in episodes] == [7] * 6 + [4, 4]
    collected = wanted["/OnlineTraining/collected/episodes/action"].numpy()
    assert all((e.action == rows).all() for e, rows in zip(episodes, collected[:42].reshape(6, 7, 1), strict=False))
    assert all(e.truncated.tolist() == [False] * (len(e) - 1) + [True] for e in episodes)
    with pytest.raises(UserError, match=r"holds what its policy saw, view .*, and cannot be seen through goal"):
        open_online(whole).episodes(ObservationView("goal", ("observation", "desired_goal")))

    with pytest.raises(SystemExit):
        fit("whole", "--ckpt_path=last", "--online.env_steps=0", "--trainer.max_steps=30")
    assert "what it collected would be lost without online.env_steps" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        fit("whole", "--ckpt_path=last", *ONLINE, "--online.env_steps_per_gradient_step=1")
    assert "began with online.env_steps_per_gradient_step 2, not 1" in capsys.readouterr().err
    assert differing(state(whole, "OnlineTraining"), wanted) == []


def test_a_finished_phase_can_be_made_longer(fit, offline):
    first = fit("longer", f"--ckpt_path={offline}", *ONLINE)
    assert state(first, "OnlineTraining")["/global_step"] == 5 + 15
    grown = ["--online.env_steps=60", *ONLINE[1:]]
    again = state(fit("longer", "--ckpt_path=last", *grown), "OnlineTraining")
    assert again["/global_step"] == 5 + 20
    assert sum(again["/OnlineTraining/collected/episodes/length"].tolist()) == 60


def test_what_is_collected_depends_on_how_the_policy_acts_and_rows_drawn_from_are_bounded(fit, offline, monkeypatch):
    """The buffer holds all that was collected; batches come from the newest ten rows."""
    drawn = []
    batch = ReplayBuffer.__init__

    def remember(self, *args, **kwargs):
        batch(self, *args, **kwargs)
        drawn.append(self)

    monkeypatch.setattr(ReplayBuffer, "__init__", remember)
    options = [f"--ckpt_path={offline}", *ONLINE]
    acted = state(fit("act", *options), "OnlineTraining")["/OnlineTraining/collected/episodes/action"]
    other = state(fit("draw", *options, "--online.actions=draw", "--online.buffer_size=10"), "OnlineTraining")
    assert not torch.equal(acted, other["/OnlineTraining/collected/episodes/action"])
    assert [buffer.capacity for buffer in drawn] == [50, 10]


def test_an_interrupted_last_evaluation_loses_nothing_and_the_command_again_overwrites_nothing(
    fit, offline, monkeypatch, capsys
):
    """Training is over and an evaluation is owed: the resumed run plays it, and keeps what was collected."""
    fresh = [f"--ckpt_path={offline}", *ONLINE]
    whole = fit("whole", *fresh)
    on_validation_start = NumericsGuard.on_validation_start

    def press(self, trainer, pl_module):
        on_validation_start(self, trainer, pl_module)
        if trainer.global_step == 20:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(NumericsGuard, "on_validation_start", press)
        with pytest.raises(SystemExit):
            fit("parts", *fresh)
    resumed = fit("parts", "--ckpt_path=last", *ONLINE)
    assert differing(state(resumed, "OnlineTraining"), state(whole, "OnlineTraining")) == []
    assert (resumed / "online_curve.csv").read_text() == (whole / "online_curve.csv").read_text()

    capsys.readouterr()
    before = (whole / "checkpoints" / "last.ckpt").read_bytes()
    with pytest.raises(SystemExit):
        fit("whole", *fresh)
    assert "already holds a run: continue it with --ckpt_path last" in capsys.readouterr().err
    assert (whole / "checkpoints" / "last.ckpt").read_bytes() == before


def test_with_the_datasets_rows_alone_training_is_what_it_was_offline(fit, offline):
    """Collecting disturbs nothing: the same weights as those of an offline run that goes on."""
    assert "OnlineTraining" not in torch.load(offline, weights_only=True)["callbacks"]
    longer = fit("longer", f"--ckpt_path={offline}", "--trainer.max_steps=15")
    alone = fit("alone", f"--ckpt_path={offline}", *ONLINE, "--online.env_steps=40", "--online.offline_share=1")
    assert differing(state(alone), state(longer)) == []
    judged = torch.load(longer / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]["EnvironmentEvaluation"][
        "history"
    ]
    assert [step for step, _ in judged] == [10, 15]  # what the other run was judged by at step 5 is not its own


def test_what_was_collected_is_cloned_unless_it_is_left_out(fit, offline):
    """Two runs that collect differently, without a Q term: their actors differ by what they clone, or not at all."""
    cloning = ["--model.eta=0", "--model.entropy=none"]

    def differing_networks(*options):
        runs = [
            state(
                fit(
                    f"{noise}{len(options)}",
                    f"--ckpt_path={offline}",
                    *ONLINE,
                    *cloning,
                    f"--online.action_noise={noise}",
                    *options,
                )
            )
            for noise in (0, 1)
        ]
        return {name.split("/")[2].split(".")[0] for name in differing(*runs) if name.startswith("/state_dict")}

    assert "actor" in differing_networks()
    left_out = differing_networks("--online.clone_collected=false")
    assert "critic" in left_out
    assert "actor" not in left_out


def test_runs_that_cannot_go_on_online_say_why(fit, offline, capsys):
    def refused(*options):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            fit("refused", *ONLINE, *options)
        assert stop.value.code == 1
        return capsys.readouterr().err

    assert "goes on from a checkpoint: train offline first" in refused()
    assert "needs an environment: data.environment is none" in refused(f"--ckpt_path={offline}", "--data.environment=none")
    nothing = ["--online.clone_collected=false", "--online.offline_share=0"]
    assert "leaves the behaviour loss nothing" in refused(f"--ckpt_path={offline}", *nothing)
    assert "an online phase is neither" in refused(f"--ckpt_path={offline}", "--trainer.fast_dev_run=1")
    assert "trainer.overfit_batches repeats batches" in refused(f"--ckpt_path={offline}", "--trainer.overfit_batches=1")
    capsys.readouterr()
    before = offline.read_bytes()
    with pytest.raises(SystemExit):
        fit("offline", "--ckpt_path=last", *ONLINE)
    assert "would overwrite the last.ckpt of the offline run" in capsys.readouterr().err
    assert offline.read_bytes() == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--model=BehaviorCloning"], "BehaviorCloning cannot learn online: it learns no values"),
        (["--model=IQL", "--online.clone_collected=false"], "is for EntropyDiffusionPolicy; IQL learns from all rows alike"),
    ],
)
def test_methods_that_cannot_are_refused(pendulum_set, tmp_path, capsys, options, message):
    with pytest.raises(SystemExit):
        main(
            [
                "fit", f"--data.dataset={pendulum_set}", f"--output={tmp_path}", "--trainer.accelerator=cpu",
                *DATA, *ONLINE, *options,
            ]
        )  # fmt: skip
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"offline_share": 1.5}, "online.offline_share must lie between 0 and 1; got 1.5"),
        ({"env_steps": -1}, "online.env_steps must be at least 0; got -1"),
        ({"buffer_size": 0}, "online.buffer_size must be at least 1; got 0"),
        ({"action_noise": -0.1}, "online.action_noise must be at least 0"),
        ({"env_steps": 500}, "must be more than online.first_env_steps 1000"),
    ],
)
def test_options_out_of_range_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        OnlineTraining(**options)
