"""Environments of users: what can be used is, through the same view as the data; the rest is refused before training."""

import json
import types

import gymnasium as gym
import numpy as np
import pytest
import torch

from edp_lightning.cli import main
from edp_lightning.data.datamodule import OfflineDataModule
from edp_lightning.data.sources.stored import environment_spec as stored_spec
from edp_lightning.environments.actions import FittedActions
from edp_lightning.environments.answers import success_of
from edp_lightning.environments.families import CHECKED_JOINTS
from edp_lightning.environments.specs import environment_spec, read_spec, write_spec
from edp_lightning.environments.workers import LocalEnvironments
from edp_lightning.environments.wrappers import ActionChunks
from edp_lightning.errors import UserError
from edp_lightning.evaluation.rollout import rollout
from tests.situations.environments import ACTIONS, HERE, OddEnv, robot_arrays

ODD = f"{HERE}:tests/Odd-v0"


def set_up(environment=ODD, stage="fit", arrays=None, **options):
    module = OfflineDataModule.from_arrays(arrays or robot_arrays(), environment=environment, **options)
    module.setup(stage)
    return module


def refusal(*arguments, **options):
    with pytest.raises(UserError) as refused:
        set_up(*arguments, **options)
    assert "\n" not in str(refused.value)
    return str(refused.value)


# --- infos ------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("chunk", [1, 2])
@pytest.mark.parametrize("info", ["none", "empty", "list", "terms", "lists", "counts", "odd keys"])
def test_what_an_environment_reports_in_its_info_changes_neither_length_nor_return(info, chunk, act):
    """Names that this package's wrappers used before (rewards, progress) are the environment's own."""
    kwargs = {"info": info, "length": 4}
    module = set_up(environment_kwargs=kwargs, action_chunk=chunk, n_step=chunk)
    (result,) = rollout(LocalEnvironments([module.environment.make()]), lambda o, g: act(o, g).repeat(1, chunk), [3])
    env = gym.make(ODD, **kwargs)
    observation, _ = env.reset(seed=3)
    total, length, terminated = 0.0, 0, False
    while not terminated:
        if length % chunk == 0:
            action = act(torch.tensor(observation)[None], None)[0].numpy()
        observation, reward, terminated, *_ = env.step(action)
        total, length = total + float(reward), length + 1
    assert (result.length, result.success, result.final) == (length, None, {}) == (4, None, {})
    assert result.episode_return == pytest.approx(total, rel=1e-6)


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (True, True), (np.bool_(False), False), (1, True), (0.0, False), (np.array([True]), True), (np.array(0), False),
        (2, None), (0.5, None), ("yes", None), (None, None), ([True, False], None), ({"a": 1}, None), (float("nan"), None),
    ],
)  # fmt: skip
def test_success_is_believed_if_it_is_true_or_false(value, found):
    assert success_of({"success": value}) is found


@pytest.mark.parametrize("chunk", [1, 3])
def test_an_array_of_one_entry_is_a_success(chunk, act):
    module = set_up(environment_kwargs={"info": "success"}, action_chunk=chunk, n_step=chunk)
    (result,) = rollout(LocalEnvironments([module.environment.make()]), lambda o, g: act(o, g).repeat(1, chunk), [3])
    assert result.success is True


# --- spaces and answers -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "width"), [("axes", 4), ("bytes", 4), ("discrete", 5), ("several", 7), ("dict", 7), ("tuple", 3)]
)
def test_observations_of_any_structure_are_flattened(kind, width, act):
    module = set_up(arrays=robot_arrays(width), environment_kwargs={"observation": kind})
    (result,) = rollout(LocalEnvironments([module.environment.make()]), act, [3], record=True)
    env = OddEnv(observation=kind)
    observation, _ = env.reset(seed=3)
    expected = gym.spaces.flatten(env.observation_space, observation)
    np.testing.assert_allclose(result.trajectory.observation[0], expected, rtol=1e-6)


def test_keys_of_an_environment_can_be_chosen_and_one_that_cannot_be_built_is_one_message():
    module = set_up(arrays=robot_arrays(4), environment_kwargs={"observation": "dict"}, view="speed,arm")
    assert module.environment.make().observation_space.shape == (4,)
    assert "cannot be built" in refusal(environment_kwargs={"speed": 3}, view="speed,arm")


def test_a_goal_environment_of_gymnasium_robotics_is_evaluated_in():
    arrays = robot_arrays(16, 4)
    try:
        CHECKED_JOINTS.refuse()
    except UserError as error:
        pytest.skip(f"Fetch {error}")
    module = set_up("FetchReach-v4", arrays=arrays)
    assert "FetchReach-v4, 50 steps" in dict(module.card.facts)["evaluation"]
    observation, _ = module.environment.make().reset(seed=5)
    raw, _ = gym.make("FetchReach-v4").reset(seed=5)
    expected = np.concatenate([raw[key] for key in ("achieved_goal", "desired_goal", "observation")])
    np.testing.assert_allclose(observation, expected, rtol=1e-6)
    assert "has observations of shape (16,)" in refusal("FetchReach-v4", arrays=robot_arrays(15, 4))


@pytest.mark.parametrize("kind", [kind for kind in ACTIONS if kind != "discrete"])
def test_actions_are_in_the_space_whatever_the_policy_says(kind):
    env = FittedActions(OddEnv(action=kind, length=None))
    env.reset(seed=0)
    rng = np.random.default_rng(0)
    bounds = (env.action_space.low, env.action_space.high)  # in float32: 0.1 lies above the 0.1 of float64
    for action in (
        *bounds,
        *rng.uniform(-200, 200, (20, 2)).astype(np.float32),
        *rng.uniform(-1, 1, (20, 2)).astype(np.float32),
    ):
        env.step(action)  # asserts that its action is in the space
    if kind == "integers":
        assert env.action(np.array([1.6, 0.4], np.float32)).tolist() == [2, 0]
        assert env.action(np.array([300.0, -300.0], np.float32)).tolist() == [3, 0]
    if kind == "axes":
        assert env.action(np.array([0.25, -0.5], np.float32)).tolist() == [[0.25], [-0.5]]


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"action": "discrete"}, "has the action space Discrete(2): only continuous actions (a Box) work"),
        ({"observation": "text"}, "Text"),
        ({"reward": "nan"}, "answers wrongly in its first step: a reward must be one finite number; got nan"),
        ({"reward": "text"}, "a reward must be one finite number; got '"),
        ({"reward": "none"}, "a reward must be one finite number; got None"),
        ({"end": "text"}, "terminated must be true or false; got 'False'"),
        ({"fault": "nan"}, "answers wrongly in its first step: an observation has NaN or infinite values"),
        ({"fault": "reset"}, "fails when it is reset (OSError: no robot at 10.0.0.7"),
        ({"fault": "step"}, "fails in its first step (ValueError: broken joint, "),
        ({"fault": "old step"}, "fails in its first step (ValueError: not enough values to unpack"),
        ({"fault": "old reset"}, "fails when it is reset"),
        (
            {"speed": 3},
            "cannot be built with the arguments {'speed': 3} (TypeError: OddEnv.__init__() got an unexpected keyword",
        ),
    ],
)
def test_an_evaluation_that_cannot_work_is_refused_before_training(kwargs, said):
    message = refusal(environment_kwargs=kwargs)
    assert "tests/Odd-v0" in message
    assert said in message
    assert message.endswith("or train without evaluation: data.environment: none")


@pytest.mark.parametrize(("reward", "end"), [("numpy", "numpy"), ("array", "array"), ("integer", "integer")])
def test_numbers_and_flags_of_other_types_are_understood(reward, end, act):
    module = set_up(environment_kwargs={"reward": reward, "end": end})
    (result,) = rollout(LocalEnvironments([module.environment.make()]), act, [3])
    assert result.length == 4
    assert type(result.episode_return) is float


# --- descriptions -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["Class", "Function"])
def test_an_entry_point_that_is_a_class_or_function_can_be_rebuilt_anywhere(name):
    environment = set_up(f"{HERE}:tests/{name}-v0").environment
    assert json.loads(environment.spec_json)["entry_point"].startswith(f"{HERE}:")
    assert isinstance(environment.make().unwrapped, OddEnv)


def test_an_entry_point_without_a_name_is_one_message():
    assert "register it with entry_point='package.module:Name'" in refusal(f"{HERE}:tests/Lambda-v0")


def test_numpy_numbers_are_arguments_like_others():
    kwargs = {"length": np.int64(3), "info": np.str_("empty")}
    environment = set_up(environment_kwargs=kwargs).environment
    assert environment.describe()["arguments"] == {"length": 3, "info": "empty"}
    assert environment.make().unwrapped._length == 3
    assert "argument info is a function" in refusal(environment_kwargs={"info": lambda: None})


def test_a_module_that_registers_is_imported(monkeypatch):
    monkeypatch.delitem(gym.registry, "tests/Odd-v0")
    assert "gymnasium knows no 'tests/Odd-v0'" in refusal("tests/Odd-v0")
    assert "package.module:Env-v0" in refusal("tests/Odd-v0")
    fresh = types.ModuleType("robots_of_mine")
    monkeypatch.setitem(__import__("sys").modules, "robots_of_mine", fresh)
    assert "gymnasium knows no 'robots_of_mine:tests/Odd-v0'" in refusal("robots_of_mine:tests/Odd-v0")
    assert "module no_such_robots cannot be imported" in refusal("no_such_robots:tests/Odd-v0")
    assert "PYTHONPATH" in refusal("no_such_robots:tests/Odd-v0")
    gym.register("tests/Odd-v0", f"{HERE}:OddEnv", disable_env_checker=True)
    assert set_up("robots_of_mine:tests/Odd-v0").environment.describe()["id"] == "tests/Odd-v0"


def test_missing_modules_and_wrappers_that_cannot_be_rebuilt_are_named():
    assert "cannot be built (the module robot_that_is_not_installed is not installed)" in refusal(f"{HERE}:tests/Missing-v0")
    spec = json.loads(environment_spec(ODD).to_json())
    spec["additional_wrappers"] = [{"name": "Forgetful", "entry_point": f"{HERE}:Forgetful", "kwargs": None}]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(gym.registry, "tests/Wrapped-v0", read_spec(json.dumps(spec | {"id": "tests/Wrapped-v0"})))
        assert "Forgetful wrapper does not inherit" in refusal("tests/Wrapped-v0")


def test_a_spec_of_an_older_gymnasium_loses_the_fields_that_are_gone():
    older = {"id": "tests/Odd-v0", "entry_point": f"{HERE}:OddEnv", "reward_threshold": None, "nondeterministic": False}
    older |= {"max_episode_steps": 6, "order_enforce": True, "autoreset": False, "disable_env_checker": True}
    older |= {
        "apply_api_compatibility": False,
        "kwargs": {"length": None},
        "additional_wrappers": [],
        "vector_entry_point": None,
    }
    spec = stored_spec({"env_spec": json.dumps(older)}, "env_spec", "dataset x")
    assert (spec.max_episode_steps, spec.kwargs) == (6, {"length": None})
    assert read_spec(write_spec(spec)) == spec
    assert stored_spec({"env_spec": json.dumps(older | {"max_episode_steps": -1})}, "env_spec", "x").max_episode_steps is None
    for wrong in ("[]", "{}", json.dumps(older | {"max_episode_steps": "ten"}), json.dumps(older | {"kwargs": [1]})):
        with pytest.raises(UserError, match=r"dataset x: env_spec in metadata\.json cannot be read"):
            stored_spec({"env_spec": wrong}, "env_spec", "dataset x")


def test_an_environment_with_a_maze_of_its_own_is_no_maze_of_gymnasium_robotics(monkeypatch):
    monkeypatch.setattr(OddEnv, "maze", "a garden", raising=False)
    assert set_up().environment.make().reset(seed=0)


# --- without evaluation, and data show --------------------------------------------------------------------------------------


def test_training_goes_without_an_environment(command, capsys, tmp_path):
    np.savez(tmp_path / "log.npz", **robot_arrays())
    name = f"npz:{tmp_path / 'log.npz'}"
    command("fit", "--data.environment=none", "--trainer.max_steps=5", dataset=name)
    (checkpoint,) = (tmp_path / "runs").rglob("*.ckpt")
    assert checkpoint.name == "last.ckpt"
    with pytest.raises(SystemExit):
        command("test", "--data.environment=none", dataset=name)
    assert "nothing to test in: data.environment is none" in capsys.readouterr().err
    module = set_up(environment="none", environment_kwargs={"speed": 3})
    assert dict(module.card.facts)["evaluation"] == "none: data.environment is none"


def test_what_is_looked_at_without_an_evaluation_needs_no_environment_that_works():
    module = set_up(environment_kwargs={"fault": "step"}, stage="predict")
    assert len(module.transitions.reward) == 18
    with pytest.raises(UserError, match="broken joint"):
        module.setup("fit")


def test_show_plays_a_step_after_the_card(capsys, tmp_path):
    np.savez(tmp_path / "log.npz", **robot_arrays())
    show = ["data", "show", f"npz:{tmp_path / 'log.npz'}", f"--environment={ODD}"]
    main(show)
    assert "ok    evaluation: one step was played in tests/Odd-v0: reward" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stop:
        main([*show, "--environment_kwargs={fault: step}"])
    assert stop.value.code == 1
    printed = capsys.readouterr()
    assert "every action is inside the box" in printed.out
    assert "error: environment tests/Odd-v0 fails in its first step (ValueError: broken joint" in printed.err


def test_trying_an_environment_draws_nothing_from_the_global_streams(monkeypatch):
    reset = OddEnv.reset

    def careless(self, *, seed=None, options=None):
        np.random.seed(1)
        torch.manual_seed(1)
        return reset(self, seed=seed, options=options)

    monkeypatch.setattr(OddEnv, "reset", careless)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    set_up()
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]


def test_a_chunk_is_played_by_an_environment_with_a_box_of_several_axes():
    env = ActionChunks(FittedActions(OddEnv(action="axes")), 2)
    assert env.action_space.shape == (4,)
    env.reset(seed=0)
    assert env.step(np.zeros(4, np.float32))[2] is False
