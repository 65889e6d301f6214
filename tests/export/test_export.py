"""Exported files decide as the package does, say what they are, and are refused where they would not."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import lightning as L
import numpy as np
import pytest
import torch

from edp_lightning import load_policy
from edp_lightning.algorithms.behavior_cloning import BehaviorCloning
from edp_lightning.cli import main
from edp_lightning.errors import UserError
from edp_lightning.export import command
from edp_lightning.export.check import check, decide, example_of, near_tie, tolerance_of
from edp_lightning.export.decision import Decision, traced
from edp_lightning.export.episodes import check_episodes
from edp_lightning.export.formats import encode
from edp_lightning.policies.acting import Choice
from edp_lightning.policies.shared_observation import q_values
from tests.algorithms.tiny import ALGORITHMS, tiny_options

ROOT = Path(__file__).parents[2]
SIZES = (5, 2)
SMALL = {"num_candidates": 4, "num_critics": 2, "num_diffusion_steps": 2, "hidden_dims": [8], "entropy": "none"}


def module_of(name: str, **options):
    torch.manual_seed(0)
    module = ALGORITHMS[name](observation_dim=5, action_dim=2, **tiny_options(name) | options)
    module.set_scales([-2.0, 0.0], [1.0, 3.0], torch.linspace(-1, 1, 5), torch.linspace(0.5, 2, 5))
    return module.eval()


def saved(module: L.LightningModule, path: Path) -> Path:
    trainer = L.Trainer(barebones=True, accelerator="cpu")
    trainer.strategy.connect(module)
    trainer.save_checkpoint(path, weights_only=False)
    return path


def eager(decision: Decision):
    def run(inputs):
        tensors = [torch.from_numpy(value) for value in inputs.values()]
        return {name: value.numpy() for name, value in decision(tensors[0], tensors[1:]).items()}

    return run


@pytest.fixture(autouse=True)
def few_decisions(monkeypatch):
    monkeypatch.setattr("edp_lightning.export.check.DECISIONS", 16)


def check_export(name: str, dynamic: bool, as_graph: bool) -> None:
    """Hold what an algorithm is exported as against ``act`` of an untouched copy with its generators."""
    reference, decision = module_of(name), Decision(module_of(name), dynamic)
    assert bool(decision.memory) == reference.remembers
    run = encode("torch", decision, traced(decision)).run if as_graph else eager(decision)
    if reference.remembers:
        found, _ = check_episodes(run, reference, decision)
        assert found.decisions > 4 * reference.context_length
    else:
        choice = None if decision.chooser is None else decision.chooser.choice
        found = check(run, reference, decision.draws, choice, dynamic)
        assert found.decisions == 16
    assert 0 <= found.largest_difference <= 1e-5
    assert (decision.chooser is None) == (reference.chooser is None)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_every_algorithm_decides_as_one_function(name, dynamic):
    check_export(name, dynamic, as_graph=False)


CHAINS = ("DecisionTransformer", "DiffusionQL", "EfficientDiffusionIQL", "EntropyDiffusionPolicy", "IDQL")


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.slow) if n in CHAINS else n for n in ALGORITHMS])
def test_every_algorithm_is_exported(name):
    """As a graph for any number of rows; long chains take their time to trace."""
    check_export(name, dynamic=True, as_graph=True)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """An ONNX file of the main algorithm for any number of rows, made by the command."""
    folder = tmp_path_factory.mktemp("export")
    path = saved(module_of("EntropyDiffusionPolicy", **SMALL), folder / "last.ckpt")
    pytest.importorskip("onnxruntime", reason="needs the extra export")
    main(["export", f"--ckpt_path={path}", "--dynamic-batch"])
    return folder / "last.onnx"


def test_the_json_says_what_the_file_takes_and_gives(exported):
    facts = json.loads(Path(f"{exported}.json").read_text())
    assert facts["inputs"] == [
        {"name": "observation", "kind": "observation", "shape": ["batch", 5]},
        {"name": "normal", "kind": "normal", "shape": ["batch", 2, 4, 2]},
        {"name": "uniform", "kind": "uniform", "shape": ["batch", 4]},
    ]
    assert facts["outputs"] == [
        {"name": "action", "shape": ["batch", 2]},
        {"name": "candidates", "shape": ["batch", 4, 2]},
        {"name": "scores", "shape": ["batch", 4]},
    ]
    assert (facts["action_low"], facts["action_high"]) == ([-2.0, 0.0], [1.0, 3.0])
    assert facts["algorithm"] == "EntropyDiffusionPolicy"
    assert facts["checked"]["decisions"] == 64
    assert {"torch", "onnx", "onnxruntime", "onnx opset", "edp_lightning"} <= set(facts["versions"])
    assert facts["decision"]["candidates"] == 4


def test_the_runtime_decides_as_the_package(exported):
    from edp_lightning.export.runtime import Policy

    policy, package = Policy(exported), load_policy(exported.with_suffix(".ckpt"))
    assert 0 <= policy.check() < 1e-5
    assert (policy.observation_dim, policy.action_dim) == SIZES
    for rows in (1, 2, 7):
        decided = decide(package.algorithm, Decision(module_of("EntropyDiffusionPolicy", **SMALL), True).draws, rows, 5)
        observation, noise = decided.inputs["observation"], {k: v for k, v in decided.inputs.items() if k != "observation"}
        outputs = policy.decide(observation, noise)
        np.testing.assert_allclose(outputs["action"], decided.action, atol=2e-5)
        assert outputs["candidates"].shape == (rows, 4, 2)
    batch = np.linspace(-1, 1, 35, dtype=np.float32).reshape(7, 5)
    first = policy.act(batch)
    assert first.shape == (7, 2)
    assert ((first >= policy.action_low) & (first <= policy.action_high)).all()
    policy.reset()
    np.testing.assert_array_equal(policy.act(batch), first)
    assert np.abs(policy.act(batch) - first).max() > 0.01
    assert policy.act(batch[0]).shape == (2,)
    for wrong in (np.zeros(4), np.zeros((2, 3, 5)), np.full(5, np.nan)):
        with pytest.raises(ValueError, match=r"shape \(5,\)"):
            policy.act(wrong)


def test_the_runtime_needs_numpy_and_onnxruntime_alone(exported, tmp_path):
    """The file by itself in an empty folder, in a process that refuses everything else."""
    shutil.copy(ROOT / "edp_lightning" / "export" / "runtime.py", tmp_path / "runtime.py")
    probe = (
        "import sys, numpy as np\n"
        "class Refuse:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.split('.')[0] in ('torch', 'onnx', 'lightning', 'edp_lightning', 'gymnasium'):\n"
        "            raise ImportError(name)\n"
        "sys.meta_path.insert(0, Refuse())\n"
        "from runtime import Policy\n"
        "policy = Policy(sys.argv[1])\n"
        "print(policy.check(), *policy.act(np.zeros(5)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", probe, str(exported)], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.split()) == 3
    inside = "import sys, edp_lightning.export.runtime; assert not {'torch', 'lightning', 'gymnasium'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", inside], cwd=ROOT, check=True)


def test_a_stored_input_that_gives_something_else_is_told(exported, tmp_path):
    from edp_lightning.export.runtime import Policy

    path = tmp_path / "p.onnx"
    shutil.copy(exported, path)
    facts = json.loads(Path(f"{exported}.json").read_text())
    facts["example"]["action"][0][0] += 0.01
    Path(f"{path}.json").write_text(json.dumps(facts))
    with pytest.raises(ValueError, match="where it was exported"):
        Policy(path).check()
    Path(f"{path}.json").write_text(json.dumps(facts | {"edp_lightning_export": 99}))
    with pytest.raises(ValueError, match="reads up to 1"):
        Policy(path)


@pytest.mark.parametrize("dynamic", [False, True])
def test_the_runtime_plays_episodes_of_a_policy_that_remembers(dynamic, tmp_path):
    """Beyond the length of its memory, with what is still to be earned falling by every reward."""
    pytest.importorskip("onnxruntime", reason="needs the extra export")
    from edp_lightning.export.runtime import Policy

    path = saved(module_of("DecisionTransformer"), tmp_path / "dt.ckpt")
    main(["export", f"--ckpt_path={path}", *(["--dynamic-batch"] if dynamic else [])])
    policy, package = Policy(tmp_path / "dt.onnx"), load_policy(path)
    assert 0 <= policy.check() < 1e-5
    random = np.random.default_rng(0)
    for target in (None, 7.0):
        policy.reset(**({} if target is None else {"target_return": target}))
        package.reset(target_return=target)
        for step in range(9):
            seen, paid = random.normal(size=(3, 5)).astype(np.float32), random.normal(size=3).tolist()
            reward = paid if step else None
            np.testing.assert_allclose(policy.act(seen, reward), package.act(seen, reward=reward), atol=5e-5)
    with pytest.raises(ValueError, match="the last reward"):
        policy.act(seen)
    with pytest.raises(ValueError, match="the last reward"):
        policy.act(seen, [0.0, np.nan, 0.0])
    with pytest.raises(ValueError, match="another number"):
        policy.act(seen[:2], 0.0)
    with pytest.raises(ValueError, match=r"nothing called return; known: .*target_return"):
        policy.reset(**{"return": 1.0})
    policy.reset()
    for step in range(policy.facts["longest_episode"]):
        policy.act(seen[0], float(step))
    with pytest.raises(ValueError, match="the most that this policy tells apart"):
        policy.act(seen[0], 0.0)


def test_torch_reads_its_own_format(tmp_path):
    path = saved(module_of("FQL"), tmp_path / "fql.ckpt")
    main(["export", f"--ckpt_path={path}", "--format=torch", f"--output={tmp_path / 'new' / 'policy.pt2'}"])
    facts = json.loads((tmp_path / "new" / "policy.pt2.json").read_text())
    assert [entry["shape"] for entry in facts["inputs"]] == [[1, 5], [1, 2]]
    function = torch.export.load(tmp_path / "new" / "policy.pt2").module()
    example = {name: torch.tensor(value) for name, value in facts["example"].items()}
    torch.testing.assert_close(function(example["observation"], [example["normal"]])["action"], example["action"])


def test_a_solver_of_the_diffusion_is_traced():
    """Its grid of times is arithmetic on numbers, which a tracer cannot read out of a buffer."""
    module = module_of("EfficientDiffusionIQL", sampler="dpm_solver", solver_passes=3)
    decision = Decision(module, dynamic=False)
    program = traced(decision)
    reference = module_of("EfficientDiffusionIQL", sampler="dpm_solver", solver_passes=3)
    decided = decide(reference, decision.draws, 1, seed=0)
    tensors = [torch.from_numpy(value) for value in decided.inputs.values()]
    np.testing.assert_allclose(program.module()(tensors[0], tensors[1:])["action"], decided.action, atol=1e-5)


def test_single_decisions_are_also_made_far_from_the_data():
    module = module_of("BehaviorCloning")
    distance = [np.abs((decide(module, [], 1, seed).inputs["observation"] - module.normalizer.mean.numpy())
                        / module.normalizer.std.numpy()).mean() for seed in range(64)]  # fmt: skip
    near = [d for seed, d in enumerate(distance) if seed % 4 != 3]
    assert np.mean(distance[3::4]) == pytest.approx(5 * np.mean(near), rel=0.3)


def test_unclipped_predictions_may_round_a_thousandfold():
    assert tolerance_of(module_of("EntropyDiffusionPolicy", **SMALL, clip_start=False)) == 1e-3
    assert tolerance_of(module_of("EntropyDiffusionPolicy", **SMALL)) == tolerance_of(module_of("IQL")) == 1e-5


def test_the_stored_example_is_no_near_tie():
    """A file that takes another candidate of the same value in the first example decides the second one like the package."""
    module = module_of("EntropyDiffusionPolicy", **SMALL)
    decision = Decision(module, dynamic=False)
    plain = eager(decision)
    calls = []

    def run(inputs):
        calls.append(inputs)
        outputs = plain(inputs)
        return outputs if len(calls) > 1 else outputs | {"action": outputs["action"] + 0.5}

    example = example_of(run, module_of("EntropyDiffusionPolicy", **SMALL), decision.draws)
    assert len(calls) == 2
    np.testing.assert_allclose(plain(example.inputs)["action"], example.action, atol=1e-5)


def test_draws_that_change_nothing_are_no_inputs():
    """With temperature 0 the best candidate is taken, whatever is drawn for the choice.

    The two actors share a module here, for which the tracer puts stand-ins in the place of others.
    """
    options = SMALL | {"candidate_temperature": 0.0, "reverse_variance": "matched"}
    decision = Decision(module_of("EntropyDiffusionPolicy", **options), dynamic=True)
    assert [draw.name for draw in decision.draws] == ["normal", "uniform"]
    traced(decision)
    assert [draw.name for draw in decision.draws] == ["normal"]


def test_other_decisions_are_refused(monkeypatch):
    """The form that would be written judges candidates by the opposite of their values."""
    options = SMALL | {"candidate_temperature": 0.0, "lcb_coef": 0.0}
    decision = Decision(module_of("EntropyDiffusionPolicy", **options), dynamic=True)
    monkeypatch.setattr("edp_lightning.policies.shared_observation.q_values", lambda *args: -q_values(*args))
    with pytest.raises(UserError, match="nothing is written"):
        check(eager(decision), module_of("EntropyDiffusionPolicy", **options), decision.draws, decision.chooser.choice, True)


def test_nothing_is_written_where_the_check_fails(tmp_path, monkeypatch):
    path = saved(module_of("BehaviorCloning"), tmp_path / "last.ckpt")
    monkeypatch.setattr("edp_lightning.export.check.TOLERANCE", -1.0)
    with pytest.raises(UserError, match="nothing is written"):
        command.export(str(path), "torch")
    assert [file.name for file in tmp_path.iterdir()] == ["last.ckpt"]


def test_only_candidates_of_equal_value_are_near_ties():
    row = {
        "action": np.array([0.5], np.float32),
        "candidates": np.array([[0.0], [0.5], [-0.5]], np.float32),
        "scores": np.array([1.0, 1.0 + 1e-6, 0.2], np.float32),
    }
    half, choice = np.ones(1, np.float32), Choice(3, 0.0, "min", 0.0)
    assert near_tie(row, np.zeros(1, np.float32), half, choice, 1e-5)
    assert not near_tie(row, np.full(1, -0.5, np.float32), half, choice, 1e-5)  # worth less
    assert not near_tie(row, np.full(1, 0.1, np.float32), half, choice, 1e-5)  # no candidate at all


class Remembering(BehaviorCloning):
    """Acts on what it saw before."""

    def reset(self, episode: int) -> None:
        self.seen: list[int] = []


class Permuting(BehaviorCloning):
    """Draws with a function that no input stands for."""

    def choose(self, observation, generators):
        torch.randperm(3, generator=generators[0])
        return super().choose(observation, generators)


class Branching(BehaviorCloning):
    """Does what no graph holds."""

    def choose(self, observation, generators):
        return -self.actor(observation) if bool(observation.sum() > 0) else self.actor(observation)


@pytest.mark.parametrize(
    ("algorithm", "message"),
    [(Remembering, "remembers its episode"), (Permuting, "draws with randperm"), (Branching, "cannot be traced")],
)
def test_what_cannot_be_exported_is_named(algorithm, message, tmp_path):
    module = algorithm(observation_dim=5, action_dim=2, hidden_dims=[4])
    module.set_scales(-1.0, 1.0)
    path = saved(module, tmp_path / "own.ckpt")
    with pytest.raises(UserError, match=message):
        command.export(str(path), "torch")
    assert not (tmp_path / "own.pt2").exists()


def test_a_missing_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(UserError, match=re.escape("edp_lightning[export]")):
        command.export(str(tmp_path / "any.ckpt"), "onnx")


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    path = saved(module_of("BehaviorCloning"), tmp_path / "bc.ckpt")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="choose another --output"):
        command.export(str(path), "torch", output=str(tmp_path / "file" / "policy.pt2"))
    with pytest.raises(UserError, match="is a folder: give --output the name of a file"):
        command.export(str(path), "torch", output=str(tmp_path))


def test_the_layouts_version_is_that_of_the_runtime():
    runtime = pytest.importorskip("edp_lightning.export.runtime", reason="needs the extra export")
    assert (command.FORMAT_KEY, command.FORMAT_VERSION) == (runtime.FORMAT_KEY, runtime.FORMAT_VERSION)


@pytest.mark.parametrize("norm", ["none", "layer"])
def test_values_are_those_of_the_ensemble(norm):
    critic = module_of("EntropyDiffusionPolicy", critic_norm=norm).target_critic
    observation, candidates = torch.randn(4, 5), torch.randn(4, 3, 2)
    expected = critic(observation.repeat_interleave(3, 0), candidates.flatten(0, 1)).view(-1, 4, 3)
    torch.testing.assert_close(q_values(critic, observation, candidates), expected)
    one = q_values(critic, observation[:1], candidates[:1])
    torch.testing.assert_close(one, expected[:, :1])


def test_layer_norm_and_execution_noise_are_in_the_file():
    options = SMALL | {"critic_norm": "layer", "execution_noise": 0.3, "hidden_dims": [8, 8], "lcb_coef": 0.0}
    reference = module_of("EntropyDiffusionPolicy", **options)
    for dynamic in (False, True):
        decision = Decision(module_of("EntropyDiffusionPolicy", **options), dynamic)
        assert [draw.name for draw in decision.draws] == ["normal_0", "uniform", "normal_1"]
        assert check(eager(decision), reference, decision.draws, decision.chooser.choice, dynamic).decisions == 16
    observation, candidates = torch.randn(4, 5), torch.randn(4, 3, 2)
    expected = reference.target_critic(observation.repeat_interleave(3, 0), candidates.flatten(0, 1)).view(-1, 4, 3)
    torch.testing.assert_close(q_values(reference.target_critic, observation, candidates), expected)
