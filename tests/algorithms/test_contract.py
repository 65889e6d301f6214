"""What every algorithm of the package keeps to, whatever its method. A new one is picked up by its file."""

import copy
import math
import re
import threading
import warnings
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import lightning as L
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger

from edp_lightning.algorithms.offline_algorithm import OfflineAlgorithm
from edp_lightning.callbacks.forced import FORCED_CALLBACKS
from edp_lightning.collect import collect
from edp_lightning.data.datamodule import OfflineDataModule
from edp_lightning.errors import UserError
from edp_lightning.runs.checkpoint_io import AtomicCheckpointIO, read_checkpoint
from tests.algorithms.bare import BareSteps, built
from tests.algorithms.tiny import ALGORITHMS, batch_for, options_of, tiny_options
from tests.probes import CrashAt, CrashError

EVERY = pytest.mark.parametrize("name", list(ALGORITHMS))
DOCS = Path(__file__).parents[2] / "docs" / "algorithms"


def tiny(name: str, **options: Any) -> Any:
    return built(ALGORITHMS[name], **(tiny_options(name) | options))


def states(module: Any) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in module.state_dict().items()}


@EVERY
def test_a_step_moves_learners_and_followers_and_nothing_else(name):
    module = tiny(name)
    followers = [f.target for f in [*module.target_networks(), *module.ema_networks()]]
    moving = {path for path, part in module.named_modules() if path in module.learners() or any(part is f for f in followers)}
    assert all(not p.requires_grad for follower in followers for p in follower.parameters())
    before = states(module)
    outputs = BareSteps(module).step(batch_for(module))
    changed = {key for key, value in module.state_dict().items() if not torch.equal(value, before[key])}
    for path in moving:
        assert any(key.startswith(f"{path}.") for key in changed), path
    parameters = dict(module.named_parameters())
    assert all(any(key.startswith(f"{path}.") for path in moving) for key in changed if key in parameters), changed
    trained = {n for n, p in parameters.items() if p.requires_grad}
    assert all(any(n.startswith(f"{path}.") for path in module.learners()) for n in trained)  # no parameter is forgotten
    for learner in module.learners():
        assert outputs["watched"][f"{learner}/loss"].isfinite()
        assert len(outputs["gradient_norms"][learner]) == len(list(module.get_submodule(learner).parameters()))


class Ranks:
    """Averages tensors over threads that stand for ranks."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.barrier = threading.Barrier(count, timeout=60)
        self.given: dict[int, torch.Tensor] = {}

    def mean(self, tensor: torch.Tensor) -> torch.Tensor:
        self.given[threading.get_ident()] = tensor.detach().clone()
        self.barrier.wait()
        total = torch.stack(list(self.given.values())).mean(0)
        self.barrier.wait()
        return total

    def all_reduce(self, tensor: torch.Tensor, *_: Any, **__: Any) -> None:
        tensor.copy_(self.mean(tensor) * self.count)


MAGNITUDES = [
    ("EntropyDiffusionPolicy", {"q_scale": "state"}),
    ("EntropyDiffusionPolicy", {"reverse_variance": "matched"}),
    ("EntropyDiffusionPolicy", {"bc_inverse_temperature": 2.0}),
    ("FQL", {"normalize_q": True}),
]
"""Options that divide by magnitudes over the global batch."""


@pytest.mark.parametrize(("name", "options"), [*((name, {}) for name in ALGORITHMS), *MAGNITUDES])
def test_two_ranks_compute_what_one_process_computes_on_the_joined_batch(name, options, monkeypatch):
    whole = tiny(name, **options)
    parts = [copy.deepcopy(whole) for _ in range(2)]
    joined = [batch_for(whole, 8, seed) for seed in (1, 2)]
    single = BareSteps(whole)
    norms = [single.step(batch)["gradient_norms"] for batch in joined]
    ranks = Ranks(2)
    drivers = [BareSteps(m, rank=r, world_size=2, reduce=lambda v, **_: ranks.mean(v)) for r, m in enumerate(parts)]
    failures: list[BaseException] = []
    found: dict[int, list[Any]] = {0: [], 1: []}

    def work(rank: int) -> None:
        try:
            for batch in joined:
                outputs = drivers[rank].step(type(batch)(*(field[rank::2] for field in batch)))
                found[rank].append(outputs["gradient_norms"])
        except BaseException as error:
            failures.append(error)
            ranks.barrier.abort()

    with monkeypatch.context() as patch:
        patch.setattr("torch.distributed.is_initialized", lambda: True)
        patch.setattr("torch.distributed.get_world_size", lambda *_: 2)
        patch.setattr("torch.distributed.get_backend", lambda *_: "gloo")
        patch.setattr("torch.distributed.all_reduce", ranks.all_reduce)
        threads = [threading.Thread(target=work, args=(rank,)) for rank in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []
    for mine in found.values():  # weights alone would not tell: Adam hides the scale of a gradient
        for step, expected_norms in enumerate(norms):
            for learner, expected in expected_norms.items():
                torch.testing.assert_close(mine[step][learner], expected, rtol=2e-3, atol=1e-6)
    expected = states(whole)
    for module in parts:
        for key, value in module.state_dict().items():
            torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=2e-5, msg=lambda m, k=key: f"{k}: {m}")


@EVERY
def test_an_action_does_not_depend_on_the_other_rows(name):
    module = tiny(name)
    observation = torch.randn(4, 3)
    together = module.act(observation, [torch.Generator().manual_seed(i) for i in range(4)])
    alone = [module.act(observation[i : i + 1], [torch.Generator().manual_seed(i)]) for i in range(4)]
    assert together.shape == (4, 2)
    assert together.abs().max() <= 1
    torch.testing.assert_close(together, torch.cat(alone), rtol=0, atol=1e-5)


def losses(module: Any, compiled: bool = False) -> dict[str, float]:
    steps = BareSteps(module)
    if compiled:
        module.prepare_step(compiled=True)
    watched = steps.step(batch_for(module))["watched"]
    return {key: value.item() for key, value in watched.items() if key.endswith("/loss")}


@EVERY
def test_gradients_are_those_of_normalised_observations(name):
    """Observations in other units, and their mean and deviation: the same step to the last digits."""
    plain, scaled = tiny(name), tiny(name)
    batch = batch_for(plain)
    units = {field: 2 * getattr(batch, field) + 5 for field in ("observation", "next_observation") if field in batch._fields}
    one, other = BareSteps(plain), BareSteps(scaled)
    scaled.set_scales(-1.0, 1.0, 5.0, 2.0)
    outputs = [one.step(batch), other.step(batch._replace(**units))]
    for what in ("watched", "gradient_norms"):
        first, second = (values[what] for values in outputs)
        assert first.keys() == second.keys()
        for key, value in first.items():
            torch.testing.assert_close(second[key], value, rtol=1e-3, atol=1e-5, msg=lambda m, k=key: f"{k}: {m}")


RATE_OF = {
    "MSG": {"log_temperature": "temperature_lr"},
    "CQL": {"log_temperature": "actor_lr", "log_multiplier": "critic_lr"},
    "FQL": {"critic": "lr", "flow": "lr", "actor": "lr"},
}
"""Algorithm -> learner -> option, where that is not the learner's name and ``_lr``."""


@EVERY
def test_each_learner_has_its_own_rate_and_schedule(name):
    known = options_of(ALGORITHMS[name])
    rates = {option: 1e-4 * (2 + n) for n, option in enumerate(sorted(o for o in known if o == "lr" or o.endswith("_lr")))}
    schedules = {option for option in known if option.endswith("lr_schedule")}
    module = tiny(name, **rates, **dict.fromkeys(schedules, "cosine"))
    steps = BareSteps(module, max_steps=10)
    for _ in range(6):
        steps.step(batch_for(module))
    for learner, optimizer in zip(module.learners(), steps.optimizers, strict=True):
        rate = rates[RATE_OF.get(name, {}).get(learner, f"{learner}_lr")]
        if schedules & {"lr_schedule", f"{learner}_lr_schedule"}:
            rate *= 0.5 * (1 + math.cos(math.pi * 5 / 10))  # of the sixth step
        assert optimizer.param_groups[0]["lr"] == pytest.approx(rate), learner


@EVERY
def test_lower_precision_and_compiled_functions_agree(name, monkeypatch):
    exact = tiny(name)
    expected = losses(copy.deepcopy(exact))
    rounded = tiny(name, hidden_precision="bfloat16")
    rounded.load_state_dict(exact.state_dict())
    found = losses(rounded)
    assert found == pytest.approx(expected, rel=0.1, abs=0.05)
    assert all(loss != expected[key] for key, loss in found.items() if not key.startswith("log_"))  # something was rounded
    traced = []
    compile_with = torch.compile

    def trace(function: Any, **_: Any) -> Any:
        traced.append(function)
        return compile_with(function, backend="aot_eager")  # whose gradients are those of one graph, as a real one

    monkeypatch.setattr(torch, "compile", trace)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="torch.compile failed")
        assert losses(exact, compiled=True) == pytest.approx(expected, rel=1e-5, abs=1e-6)
    assert traced
    torch._dynamo.reset()


@pytest.mark.slow
@EVERY
def test_functions_compiled_for_this_processor_agree(name):
    exact = tiny(name)
    assert losses(copy.deepcopy(exact), compiled=True) == pytest.approx(losses(exact), rel=1e-4, abs=1e-6)
    torch._dynamo.reset()


@pytest.fixture(scope="module")
def toy_root(tmp_path_factory):
    root = tmp_path_factory.mktemp("minari")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MINARI_DATASETS_PATH", str(root))
        collect("toy", steps=200)
    return root


class Spoil(L.Callback):
    """Turns what all rows hold into NaN when training begins."""

    def on_train_epoch_start(self, trainer, pl_module):
        rows = trainer.datamodule.transitions
        for field in (rows.observation, rows.action, rows.reward):
            field.fill_(torch.nan)


@pytest.fixture
def fit(toy_root, tmp_path, monkeypatch):
    """Train an algorithm on the toy set with every forced callback; returns module and trainer."""
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(toy_root))

    def run(name: str, folder: str, *callbacks: Any, ckpt_path: Any = None, steps: int = 10, spoil: bool = False) -> Any:
        data = OfflineDataModule("edp/toy/two-step-v0", batch_size=4, steps_per_epoch=5, cache=False)
        data.setup("")
        torch.manual_seed(0)
        module = ALGORITHMS[name](**tiny_options(name))
        options = {"evaluation": {"num_episodes": 2, "num_envs": 2}, "last_checkpoint": {"every_n_steps": 5}}
        forced = [kind(**options.get(section, {})) for section, kind in FORCED_CALLBACKS.items()]
        trainer = L.Trainer(
            accelerator="cpu",
            devices=1,
            max_steps=steps,
            log_every_n_steps=1,
            callbacks=[*forced, *callbacks, *([Spoil()] if spoil else [])],
            plugins=[AtomicCheckpointIO()],
            logger=TensorBoardLogger(tmp_path, name=folder, version=""),
            num_sanity_val_steps=0,
            enable_model_summary=False,
            use_distributed_sampler=False,
            default_root_dir=tmp_path / folder,
        )
        trainer.fit(module, datamodule=data, ckpt_path=ckpt_path)
        return module, trainer

    return run


@EVERY
def test_a_run_that_is_cut_off_goes_on_bit_for_bit(name, fit, tmp_path):
    module, trainer = fit(name, "whole")
    metrics = trainer.callback_metrics
    assert {"evaluation/return", "evaluation/score"} <= set(metrics)
    first = next(iter(module.learners()))
    assert {f"{first}/loss", f"{first}/gradient_norm"} <= set(metrics)
    with pytest.raises(CrashError):
        fit(name, "parts", CrashAt("on_train_batch_end", 7))
    again, _ = fit(name, "parts", ckpt_path=tmp_path / "parts" / "checkpoints" / "last.ckpt")
    a, b = (read_checkpoint(tmp_path / run / "checkpoints" / "last.ckpt") for run in ("whole", "parts"))
    assert a["global_step"] == b["global_step"] == 10
    assert a["algorithm"].endswith(f".{name}")
    for key, value in a["state_dict"].items():
        assert torch.equal(value, b["state_dict"][key]), key
    for ours, theirs in zip(a["optimizer_states"], b["optimizer_states"], strict=True):
        for number, values in ours["state"].items():
            for key, value in values.items():
                assert torch.equal(torch.as_tensor(value), torch.as_tensor(theirs["state"][number][key])), (number, key)

    loaded = ALGORITHMS[name].load_from_checkpoint(tmp_path / "whole" / "checkpoints" / "last.ckpt", weights_only=True)
    observation = torch.randn(3, module.observation_dim)
    acted = [m.act(observation, [torch.Generator().manual_seed(i) for i in range(3)]) for m in (module, again, loaded)]
    assert torch.equal(acted[0], acted[1])
    assert torch.equal(acted[0], acted[2])


@EVERY
def test_numbers_that_are_not_finite_stop_the_run_with_their_name(name, fit, tmp_path):
    with pytest.raises(UserError) as stop:
        fit(name, "spoilt", spoil=True, steps=5)
    named = re.match(r"(\w+)/loss was not finite at gradient step 0 \(with it the gradient of (\w+)\.", str(stop.value))
    assert named is not None, stop.value
    assert {named[1], named[2]} <= set(ALGORITHMS[name](**tiny_options(name), observation_dim=1, action_dim=1).learners())
    assert list((tmp_path / "spoilt").glob("nonfinite_step0_*.pt"))
    assert not (tmp_path / "spoilt" / "checkpoints" / "last.ckpt").exists()


@EVERY
def test_options_that_size_networks_are_compared_with_a_checkpoints(name):
    """Where another value gives weights of other names or shapes, a checkpoint is refused by the option's name."""
    small = tiny(name)
    shapes = {key: value.shape for key, value in small.state_dict().items()}
    classes = [c for c in ALGORITHMS[name].__mro__ if issubclass(c, OfflineAlgorithm)]
    hints = {option: hint for c in classes for option, hint in get_type_hints(c.__init__).items()}
    for option in sorted(hints.keys() - {"return", "kwargs", "observation_dim", "action_dim", "seed"}):
        for other in other_values(small.hparams.get(option), hints[option]):
            try:
                changed = tiny(name, **{option: other})
            except (UserError, TypeError):  # a value that is none
                continue
            if {key: tensor.shape for key, tensor in changed.state_dict().items()} != shapes:
                assert option in ALGORITHMS[name].fixed_options, option


def other_values(value: Any, hint: Any) -> list[Any]:
    """Return values of an option beside the one it has: the double of numbers, all of a choice, and something for null."""
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, list):
        return [[2 * entry for entry in value]]
    if value is None:
        return [1, 0.5]
    choices = [choice for part in (hint, *get_args(hint)) if get_origin(part) is Literal for choice in get_args(part)]
    return choices or ([2 * value] if isinstance(value, (int, float)) else [])


@EVERY
def test_an_algorithm_has_a_page_with_its_paper(name):
    file = ALGORITHMS[name].__module__.rpartition(".")[2]
    page = DOCS / f"{file}.md"
    if name != "EntropyDiffusionPolicy" or DOCS.joinpath("index.md").exists():
        assert "arxiv.org" in page.read_text()
