"""Decision Transformer against programs written out here: its network and gradient step, and how it plays an episode."""

import copy
import json
import math

import gymnasium as gym
import lightning as L
import numpy as np
import pytest
import torch

from edp_lightning.algorithms.decision_transformer import DecisionTransformer
from edp_lightning.cli import main
from edp_lightning.data.datamodule import OfflineDataModule
from edp_lightning.data.transitions import WindowBatch
from edp_lightning.environments.workers import LocalEnvironments
from edp_lightning.errors import UserError
from edp_lightning.evaluation.loaded_policy import LoadedPolicy
from edp_lightning.evaluation.rollout import rollout
from edp_lightning.networks.causal_transformer import attend, drop
from edp_lightning.policies.return_conditioned import Kept
from edp_lightning.runs.checkpoint_io import read_checkpoint
from tests.algorithms.bare import BareSteps, built, rows
from tests.algorithms.tiny import TINY_OPTIONS, windows
from tests.conftest import TINY

SMALL = TINY_OPTIONS["DecisionTransformer"]
PLAIN = SMALL | {"embedding_dropout": 0.0, "attention_dropout": 0.0, "residual_dropout": 0.0}


def awake(module):
    """Return the module with weights far from their start: every part of the network matters."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in module.actor.parameters():
            parameter.add_(0.4 * torch.randn(parameter.shape, generator=generator))
    return module


def weights_of(module):
    return {name: p.detach().double().clone().requires_grad_() for name, p in module.actor.named_parameters()}


def normed(x, w, name):
    centred = x - x.mean(-1, keepdim=True)
    return centred / ((centred**2).mean(-1, keepdim=True) + 1e-5).sqrt() * w[f"{name}.weight"] + w[f"{name}.bias"]


def affine(x, w, name):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def predicted(w, to_go, state, action, time, valid, options):
    """Return actions (batch, K, action_dim), float64; padding may lie anywhere, ``valid`` (batch, K) says where it does not."""
    batch, length = to_go.shape
    width, heads = options["embedding_dim"], options["num_heads"]
    tokens = torch.zeros(batch, 3 * length, width, dtype=torch.float64)
    embedded = w["embed_timestep.weight"][time]
    tokens[:, 0::3] = affine(to_go[..., None], w, "embed_return") + embedded
    tokens[:, 1::3] = affine(state, w, "embed_observation") + embedded
    tokens[:, 2::3] = affine(action, w, "embed_action") + embedded
    x = normed(tokens, w, "norm")
    order = torch.arange(3 * length)
    hidden = (order[None, :] > order[:, None])[None] | ~valid.repeat_interleave(3, 1)[:, None, :]
    for layer in range(options["num_layers"]):
        name = f"transformer.blocks.{layer}"
        projected = affine(normed(x, w, f"{name}.norm_attention"), w, f"{name}.projections")
        size, parts = width // heads, []
        for head in range(heads):
            q, k, v = (projected[..., p * width + head * size : p * width + (head + 1) * size] for p in range(3))
            scores = torch.where(hidden, -1e9, q @ k.transpose(1, 2) / math.sqrt(size))
            odds = (scores - scores.max(-1, keepdim=True).values).exp()
            parts.append(odds / odds.sum(-1, keepdim=True) @ v)
        x = x + affine(torch.cat(parts, -1), w, f"{name}.attention_output")
        inner = affine(normed(x, w, f"{name}.norm_perceptron"), w, f"{name}.hidden")
        relu = options.get("activation") == "relu"
        inner = inner.clamp(min=0) if relu else 0.5 * inner * (1 + torch.erf(inner / math.sqrt(2)))
        x = x + affine(inner, w, f"{name}.output")
    return torch.tanh(affine(normed(x, w, "transformer.norm")[:, 1::3], w, "output"))


def padded_in_front(batch):
    """Return windows as the authors' code has them: padded in front, actions there -10."""
    fields = [torch.zeros_like(field, dtype=torch.float64) for field in batch]
    fields[1] -= 10
    fields[3] = torch.zeros_like(batch.timestep)
    for row, steps in enumerate(batch.mask.sum(1).long().tolist()):
        for into, field in zip(fields, batch, strict=True):
            into[row, len(field[row]) - steps :] = field[row, :steps].to(into.dtype)
    return WindowBatch(*fields)


@pytest.mark.parametrize("options", [{}, {"activation": "relu", "return_scale": 4.0, "gradient_clip_val": 0.05}])
def test_two_steps_equal_an_independent_calculation(options):
    """Masked loss, clipping, warm-up and AdamW; padding behind and in front come to the same."""
    options = PLAIN | {"actor_lr": 1e-2, "weight_decay": 0.1} | options
    module = awake(built(DecisionTransformer, **options))
    steps = BareSteps(module)
    w, clip = weights_of(module), module.hparams["gradient_clip_val"]
    first = {name: torch.zeros_like(p) for name, p in w.items()}
    second = {name: torch.zeros_like(p) for name, p in w.items()}
    for step in range(2):
        batch = windows(16, step + 1)
        assert 0 < batch.mask.mean() < 1
        there = padded_in_front(batch)
        valid = there.mask > 0
        to_go = there.return_to_go / options["return_scale"]
        out = predicted(w, to_go, there.observation, there.action, there.timestep, valid, options)
        loss = ((out - there.action) ** 2)[valid].mean()
        gradients = dict(zip(w, torch.autograd.grad(loss, list(w.values())), strict=True))
        norm = math.sqrt(sum(float((g**2).sum()) for g in gradients.values()))
        assert norm > clip
        outputs = steps.step(batch)
        assert outputs["watched"]["actor/loss"].item() == pytest.approx(loss.item(), rel=1e-5)
        assert outputs["watched"]["actor/gradient_norm"].item() == pytest.approx(norm, rel=1e-5)
        rate = 1e-2 * min((step + 1) / 2, 1)
        for name, parameter in module.actor.named_parameters():
            gradient = gradients[name] * clip / norm
            assert (parameter.grad.double() - gradient).norm() <= 1e-5 * clip, name
            first[name] = 0.9 * first[name] + 0.1 * gradient
            second[name] = 0.999 * second[name] + 0.001 * gradient**2
            mean, square = first[name] / (1 - 0.9 ** (step + 1)), second[name] / (1 - 0.999 ** (step + 1))
            moved = w[name].detach() * (1 - rate * 0.1) - rate * mean / (square.sqrt() + 1e-8)
            w[name] = moved.requires_grad_()
            seen = square.sqrt() > 1e-6  # below, rounding decides about the direction of a step
            torch.testing.assert_close(parameter.double()[seen], moved[seen], rtol=0, atol=2e-5)
            with torch.no_grad():
                parameter.copy_(moved)  # so that the second step is compared by itself


def test_dropout_drops_as_often_as_it_should_and_leaves_the_mean():
    module = built(DecisionTransformer, **(SMALL | {"attention_dropout": 0.5}))
    BareSteps(module)
    noise = module.draw_noise(3, 500)
    shares = [noise.embedding, noise.blocks[1].weights, noise.blocks[0].attended, noise.blocks[1].transformed]
    assert [round(float(kept.float().mean()), 2) for kept in shares] == [0.9, 0.5, 0.9, 0.9]
    assert noise.blocks[0].weights.shape == (500, 2, 12, 12)
    assert torch.equal(noise.embedding, module.draw_noise(3, 500).embedding)
    assert not torch.equal(noise.embedding, module.draw_noise(4, 500).embedding)
    dropped = drop(torch.ones(500, 12, 8), noise.embedding, 0.1)
    assert torch.equal(dropped.unique(), torch.tensor([0.0, 1 / 0.9]))
    batch = windows(500, 2)
    window = batch.observation, batch.action, batch.return_to_go, batch.timestep
    for part in (Kept(noise.embedding), Kept(blocks=noise.blocks)):
        assert not torch.allclose(module.actor(*window), module.actor(*window, part))


def test_attention_written_out_is_that_of_torch():
    query, key, value = torch.randn(3, 2, 2, 5, 4, generator=torch.Generator().manual_seed(0))
    everything = torch.ones(2, 2, 5, 5, dtype=torch.bool)
    torch.testing.assert_close(attend(query, key, value, everything), attend(query, key, value))


def test_tokens_start_small_or_where_torch_starts_them():
    """N(0, 0.02^2) as CORL, or as the authors N(0, 1) for steps and uniform for maps; the transformer small in both."""
    options = {**PLAIN, "embedding_dim": 64, "num_heads": 1, "max_episode_length": 500}
    for init, step_std, bias in (("normal", 0.02, False), ("torch", 1.0, True)):
        actor = built(DecisionTransformer, **options, embedding_init=init).actor
        assert float(actor.embed_timestep.weight.detach().std()) == pytest.approx(step_std, rel=0.02)
        assert [
            bool(layer.bias.any()) for layer in (actor.embed_return, actor.embed_observation, actor.embed_action, actor.output)
        ] == 4 * [bias]
        maps = [m for m in actor.transformer.modules() if isinstance(m, torch.nn.Linear)]
        assert all(not m.bias.any() for m in maps)
        assert float(torch.cat([m.weight.detach().flatten() for m in maps]).std()) == pytest.approx(0.02, rel=0.05)


def test_in_a_bandit_the_return_that_is_asked_for_chooses_the_arm():
    module = built(DecisionTransformer, **(PLAIN | {"actor_lr": 1e-2, "weight_decay": 0.0}))
    arm = (torch.arange(32) % 2).float()
    action = torch.where(arm == 1, 0.8, -0.8)[:, None, None].expand(-1, 1, 2)
    zeros = torch.zeros(32, 1)
    batch = WindowBatch(torch.zeros(32, 1, 3), action, arm[:, None], zeros.long(), zeros + 1)
    steps = BareSteps(module)
    for _ in range(60):
        steps.step(batch)
    for episode, target in enumerate((0.0, 1.0)):
        module.reset(episode, target)
    chosen = module.act(torch.zeros(2, 3), [torch.Generator()] * 2, [0, 1], [0.0, 0.0])
    assert chosen[:, 0].tolist() == pytest.approx([-0.8, 0.8], abs=0.1)


HOPPER = {"observation_dim": 11, "action_dim": 3, "return_scale": 10.0, "target_returns": [60.0, 20.0]}
TARGETS, LIMIT, CONTEXT = (60.0, 20.0), 15, 4


@pytest.fixture(scope="module")
def hopper():
    module = awake(built(DecisionTransformer, **(PLAIN | HOPPER)))
    module.set_scales(-1.0, 1.0, 0.1, 2.0)
    return module.eval()


def played_by_hand(module, seed, target):
    """Play one episode as the paper's algorithm 1 does: all that was seen is kept, the last K steps are looked at."""
    w = {name: p.detach() for name, p in weights_of(module).items()}
    env = gym.make("Hopper-v5", max_episode_steps=LIMIT)
    observation, _ = env.reset(seed=seed)
    states, actions, to_go, total, over = [], [], [target], 0.0, False
    while not over:
        states.append(torch.tensor((observation.astype(np.float32) - np.float32(0.1)) / np.float32(2.0)).double())
        actions.append(torch.zeros(3, dtype=torch.float64))
        span = slice(max(0, len(states) - CONTEXT), None)
        left, time = torch.tensor([to_go[span]], dtype=torch.float64) / 10, torch.arange(len(states))[None, span]
        seen, done = torch.stack(states[span])[None], torch.stack(actions[span])[None]
        actions[-1] = predicted(w, left, seen, done, time, torch.ones_like(time) > 0, module.hparams)[0, -1]
        observation, reward, terminated, truncated, _ = env.step(actions[-1].float().numpy())
        to_go.append(to_go[-1] - float(reward))
        total, over = total + float(reward), terminated or truncated
    env.close()
    return total, torch.stack(actions)


def test_an_evaluation_asks_for_what_is_left_and_looks_back_as_far_as_it_may(hopper):
    seeds, targets = [3, 4, 5, 6] * 2, [t for t in TARGETS for _ in range(4)]
    envs = LocalEnvironments([gym.make("Hopper-v5", max_episode_steps=LIMIT) for _ in range(3)])
    results = rollout(envs, hopper, seeds, record=True, target_returns=targets)
    envs.close()
    assert [(r.seed, r.target_return) for r in results] == list(zip(seeds, targets, strict=True))
    for result in results:
        total, actions = played_by_hand(hopper, result.seed, result.target_return)
        assert result.length == len(actions)
        assert result.episode_return == pytest.approx(total, rel=1e-4)
        torch.testing.assert_close(torch.tensor(result.trajectory.action).double(), actions, rtol=0, atol=1e-3)
    assert max(r.length for r in results) > CONTEXT
    assert abs(results[0].episode_return - results[4].episode_return) > 1e-3  # the target matters


def test_a_loaded_policy_plays_the_same_episode_if_it_is_told_the_rewards(hopper):
    policy = LoadedPolicy(copy.deepcopy(hopper))
    env = gym.make("Hopper-v5", max_episode_steps=LIMIT)
    for target in (None, 20.0):
        observation, _ = env.reset(seed=3)
        policy.reset(3, target)
        reward, total, over = None, 0.0, False
        while not over:
            observation, reward, terminated, truncated, _ = env.step(policy.act(observation, reward=reward))
            total, over = total + float(reward), terminated or truncated
        assert total == pytest.approx(played_by_hand(hopper, 3, target or 60.0)[0], rel=1e-4)
    env.close()
    with pytest.raises(UserError, match="goes on from what was earned"):
        policy.act(observation)
    with pytest.raises(UserError, match="one for each of the 1 rows"):
        policy.act(observation, reward=[1.0, 2.0])
    with pytest.raises(UserError, match="finite"):
        policy.act(observation, reward=math.nan)


def test_rows_of_a_batch_are_episodes_that_do_not_know_of_each_other(hopper):
    observation = torch.randn(3, 6, 11, generator=torch.Generator().manual_seed(1))
    together, alone = LoadedPolicy(copy.deepcopy(hopper)), LoadedPolicy(copy.deepcopy(hopper))
    rewards = [[0.0, 5.0, -3.0], [0.5, 0.25, 9.0], [1.0, 2.0, 3.0], [0.0] * 3, [2.0, -1.0, 7.0], [1.0] * 3]
    acted = [together.act(observation[:, t], reward=rewards[t]) for t in range(6)]
    for row in (2, 0):
        alone.reset()
        for t in range(6):
            action = alone.act(observation[row, t], reward=rewards[t][row])
            torch.testing.assert_close(action, acted[t][row], rtol=0, atol=1e-5)
    fresh = together.act(observation[:, 0], seed=0)  # a call by itself is a first step, and changes nothing
    torch.testing.assert_close(fresh, acted[0], rtol=0, atol=1e-5)


def test_an_episode_cannot_go_on_for_ever(hopper):
    policy = LoadedPolicy(copy.deepcopy(hopper))
    observation = np.zeros(11)
    for _ in range(SMALL["max_episode_length"]):
        policy.act(observation, reward=0.0)
    with pytest.raises(UserError, match="goes on after 20 steps"):
        policy.act(observation, reward=0.0)
    policy.reset()
    policy.act(observation)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_heads": 3}, r"num_heads \(3\) must divide model.embedding_dim \(8\)"),
        ({"return_scale": 0.0}, "return_scale"),
        ({"target_returns": []}, "at least one return"),
        ({"target_returns": [1.0, 1.0]}, "each once"),
        ({"target_returns": None}, "no dataset to take the largest return from"),
    ],
)
def test_options_that_mean_nothing_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        built(DecisionTransformer, **(SMALL | options))


def test_transitions_are_no_windows():
    with pytest.raises(UserError, match="windows of whole trajectories"):
        BareSteps(built(DecisionTransformer, **SMALL)).step(rows())


def pendulums(steps=20, **options):
    """Return a data module over one episode of random numbers, judged in Pendulum-v1."""
    rng = np.random.default_rng(0)
    arrays = {
        "observations": rng.normal(size=(steps, 3)),
        "actions": rng.uniform(-1, 1, (steps, 1)),
        "rewards": rng.normal(size=steps),
        "terminated": np.zeros(steps, dtype=bool),
        "truncated": np.arange(steps) == steps - 1,
    }
    arrays["next_observations"] = np.concatenate([arrays["observations"][1:], np.zeros((1, 3))])
    options = {"environment": "Pendulum-v1", "max_episode_steps": 20, "batch_size": 4} | options
    return OfflineDataModule.from_arrays(arrays, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 21}, "the longest trajectory of arrays has 21 steps, but model.max_episode_length is 20"),
        ({"max_episode_steps": 21}, "may take 21 steps, but model.max_episode_length is 20"),
        ({"n_step": 2}, "data.n_step 1"),
        ({"reward_transform": "standardize"}, "data.reward_transform none"),
    ],
)
def test_data_it_cannot_learn_from_are_refused_before_the_first_step(options, message, tmp_path):
    trainer = L.Trainer(max_steps=1, accelerator="cpu", logger=False, default_root_dir=tmp_path, enable_model_summary=False)
    with pytest.raises(UserError, match=message):
        trainer.fit(DecisionTransformer(**SMALL), pendulums(**options))
    assert trainer.global_step == 0


OPTIONS = [option for option in TINY if not option.startswith("--model.")]


@pytest.fixture
def command(toy_set, tmp_path):
    """Run a command on the toy set with a small transformer; returns the run's folder."""

    def run(subcommand, *options, run_name="t", **changed):
        sizes = [f"--model.{name}={json.dumps(value)}" for name, value in (SMALL | changed).items()]
        out = [f"--output={tmp_path / 'runs'}", f"--run_name={run_name}", "--data.dataset=edp/toy/two-step-v0"]
        main([subcommand, "--model=DecisionTransformer", *out, *OPTIONS, *sizes, *options])
        return tmp_path / "runs" / "edp-toy-two-step-v0" / f"{run_name}-seed0"

    return run


def test_a_result_file_tells_every_target_and_which_one_counts(command):
    folder = command("fit", "--trainer.max_steps=5", target_returns=None)
    (largest,) = read_checkpoint(folder / "checkpoints" / "last.ckpt")["hyper_parameters"]["target_returns"]
    assert largest > 0  # that of a trajectory in the data
    command("test", "--ckpt_path=last", target_returns=[largest, 0.5, -7.0])
    record = json.loads((folder / "test_last.json").read_text())
    assert record["targets"] == [largest, 0.5, -7.0]
    told = record["target_returns"]
    assert [each["target_return"] for each in told["each"]] == [largest, 0.5, -7.0]
    scores = {each["target_return"]: each["scores"]["score"] for each in told["each"]}
    assert record["scores"]["score"] == scores[told["counts"]] == max(scores.values())
    assert record["scores"]["score_target_0.5"] == scores[0.5]
    for each in told["each"]:
        assert len(each["episodes"]) == 4
        assert each["scores"]["return"] == pytest.approx(np.mean([episode["return"] for episode in each["episodes"]]))
    assert record["episodes"] == next(each["episodes"] for each in told["each"] if each["target_return"] == told["counts"])


@pytest.mark.slow
def test_a_run_of_two_halves_is_one_run(command):
    whole = command("fit", "--trainer.max_steps=40", run_name="whole")
    command("fit", "--trainer.max_steps=20", run_name="parts")
    parts = command("fit", "--trainer.max_steps=40", "--ckpt_path=last", run_name="parts")
    a, b = (read_checkpoint(folder / "checkpoints" / "last.ckpt") for folder in (whole, parts))
    assert a["global_step"] == b["global_step"] == 40
    assert all(torch.equal(value, b["state_dict"][name]) for name, value in a["state_dict"].items())
