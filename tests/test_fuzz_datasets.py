"""Malformed datasets: one clear error, or what an independent calculation gives; never a traceback or a hang."""

import contextlib
import json
import math
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edp_lightning.data.datamodule import OfflineDataModule
from edp_lightning.errors import UserError
from tests.conftest import FUZZ_SETTINGS

KEYS = ("observations", "actions", "rewards", "terminations", "truncations")
ANY_KEY, ANY_EPISODE = st.sampled_from(KEYS), st.sampled_from(["episode_0", "episode_1", "episode_2"])


def rewrite(group: Any, name: str, values: Any) -> None:
    if name in group:
        del group[name]
    group[name] = values


def drop_key(file, episode, key):
    del file[episode][key]


def drop_episode(file, episode):
    del file[episode]


def resize(file, episode, key, change):
    values = file[episode][key][()]
    rewrite(file[episode], key, values[:change] if change < 0 else np.concatenate([values, values[:change]]))


def poke(file, episode, key, row, value):
    values = np.array(file[episode][key][()], dtype=np.float64)
    if values.size:
        values.reshape(-1)[row % values.size] = value
    rewrite(file[episode], key, values)


def retype(file, episode, key, dtype):
    rewrite(file[episode], key, file[episode][key][()].astype(dtype))


def reshape(file, episode, key, shape):
    values = file[episode][key][()]
    new = {
        "column": lambda: values.reshape(len(values), -1)[:, :1],
        "flat": lambda: values.reshape(-1),
        "deep": lambda: values[..., None],
        "wide": lambda: np.concatenate([values.reshape(len(values), -1)] * 2, axis=1),
        "scalar": lambda: values.reshape(-1)[0] if values.size else np.float64(0),
    }[shape]()
    rewrite(file[episode], key, new)


def rename(file, episode, name):
    if name not in file:
        file.move(episode, name)


def add(file, name):
    if name not in file:
        file.create_group(name)


def make_group(file, episode, key):
    del file[episode][key]
    file[episode].create_group(key)["x"] = np.zeros(3)


def make_array(file, episode):
    del file[episode]
    file[episode] = np.zeros(3)


def empty(file, episode):
    for key in KEYS:
        rewrite(file[episode], key, file[episode][key][()][: 1 if key == "observations" else 0])


NAMES = st.sampled_from(["episode_7", "episode_x", "episode_-1", "episode_01", "episode_", "other", "episode_1.5"])
CHANGES = st.one_of(
    st.tuples(st.just(drop_key), ANY_EPISODE, ANY_KEY),
    st.tuples(st.just(drop_episode), ANY_EPISODE),
    st.tuples(st.just(resize), ANY_EPISODE, ANY_KEY, st.sampled_from([-2, -1, 1])),
    st.tuples(
        st.just(poke),
        ANY_EPISODE,
        ANY_KEY,
        st.integers(0, 9),
        st.sampled_from([np.nan, np.inf, -np.inf, 1e300, 7.0, -3.5, 0.5]),
    ),
    st.tuples(st.just(retype), ANY_EPISODE, ANY_KEY, st.sampled_from(["f2", "f8", ">f4", "i4", "u1", "?", "c8", "S8", "i8"])),
    st.tuples(st.just(reshape), ANY_EPISODE, ANY_KEY, st.sampled_from(["column", "flat", "deep", "wide", "scalar"])),
    st.tuples(st.just(rename), ANY_EPISODE, NAMES),
    st.tuples(st.just(add), NAMES),
    st.tuples(st.just(make_group), ANY_EPISODE, ANY_KEY),
    st.tuples(st.just(make_array), ANY_EPISODE),
    st.tuples(st.just(empty), ANY_EPISODE),
)
JUNK = st.sampled_from([None, 0, 3, -1, "x", "", [], {}, True, 1.5, {"type": "Box"}, '{"type": "Discrete", "n": 3}'])
METADATA = st.one_of(
    st.none(),
    st.none(),
    st.none(),
    st.tuples(
        st.sampled_from(
            ["action_space", "observation_space", "data_format", "env_spec", "eval_env_spec", "author", "total_episodes"]
        ),
        JUNK,
    ),
    st.sampled_from(["absent", "not json", "a list"]),
)
OPTIONS = st.fixed_dictionaries(
    {
        "n_step": st.integers(1, 4),
        "action_chunk": st.integers(1, 3),
        "discount": st.sampled_from([0.0, 0.9, 1.0]),
        "terminals": st.sampled_from([None, "env", "reward", "first_success"]),
        "reward_transform": st.sampled_from(["none", "affine", "standardize", "min_max", "return_range"]),
        "reward_shift": st.just(-0.5),
        "reward_scale": st.just(4.0),
        "normalize_observations": st.sampled_from(["none", "standard", "scalar"]),
        "action_clip_eps": st.sampled_from([0.0, 1e-3]),
        "action_low": st.sampled_from([None, None, -2.0, [-0.5], "data"]),
        "action_high": st.sampled_from([None, None, 2.0, [0.5, 0.5], "data"]),
        "cache": st.booleans(),
    }
).map(lambda options: {**options, "action_chunk": min(options["action_chunk"], options["n_step"])})


SPACES: dict[str, Any] = {
    "none": None,
    "fits": {"type": "Box", "dtype": "float64", "shape": [2], "low": [-9.0, -9.0], "high": [9.0, 9.0]},
    "column": {"type": "Box", "dtype": "float64", "shape": [2, 1], "low": [[-9.0], [-9.0]], "high": [[9.0], [9.0]]},
    "image": {"type": "Box", "dtype": "uint8", "shape": [32, 32], "low": [[0] * 32] * 32, "high": [[255] * 32] * 32},
    "category": {"type": "Discrete", "dtype": "int64", "start": 0, "n": 3},
}
SPACES["dict"] = {"type": "Dict", "subspaces": {"a": SPACES["fits"]}}
SPACES["tuple"] = {"type": "Tuple", "subspaces": [SPACES["fits"]]}
"""Observation spaces that a set may declare; those of ``BRANCHES`` are stored as groups."""

BRANCHES = {"dict": "a", "tuple": "_index_0"}
BOXES = {
    "unit": ("float32", [-1.0], [1.0]),
    "wide": ("float64", [-3.0], [5.0]),
    "narrow": ("float32", [-0.25], [0.25]),
    "whole": ("int64", [-2], [2]),
    "free": ("float32", [-math.inf], [math.inf]),
    "half": ("float32", [-1.0], [math.inf]),
    "empty": ("float32", [1.0], [1.0]),
}
DECLARED = st.tuples(
    st.sampled_from(["none", "none", "fits", "fits", *SPACES]), st.sampled_from(["unit", "unit", "unit", "unit", *BOXES])
)
"""Names of an observation space and of an action box."""


def stored_observations(group: Any) -> Any:
    node = group["observations"]
    return node if isinstance(node, h5py.Dataset) else node[next(iter(node))]


def write(
    folder: Path, changes: list[tuple[Any, ...]], metadata: Any, cut: float, honest: bool, declared: tuple[str, str]
) -> None:
    """Put a set of three episodes of 4, 3 and 5 steps into a folder and spoil it."""
    space, action_box = declared
    rng = np.random.default_rng(0)
    path = folder / "main_data.hdf5"
    with h5py.File(path, "w") as file:
        for number, steps in enumerate((4, 3, 5)):
            group = file.create_group(f"episode_{number}")
            place = f"observations/{BRANCHES[space]}" if space in BRANCHES else "observations"
            group[place] = 100.0 * number + np.arange(2.0 * (steps + 1)).reshape(steps + 1, 2)
            group["actions"] = rng.uniform(-1, 1, (steps, 1)).astype(np.float32)
            group["rewards"] = rng.normal(size=steps)
            group["terminations"] = np.arange(steps) == (steps - 1 if number == 1 else -1)
            group["truncations"] = np.arange(steps) == (steps - 1 if number != 1 else -1)
        for change, *arguments in changes:
            # an earlier change may have taken what this one would spoil
            with contextlib.suppress(KeyError, ValueError, TypeError, AttributeError, IndexError):
                change(file, *arguments)
        count = sum(name.startswith("episode_") for name in file)
    if cut < 1:
        content = path.read_bytes()
        path.write_bytes(content[: int(cut * len(content))])
    box = dict(zip(("dtype", "low", "high"), BOXES[action_box], strict=True)) | {"type": "Box", "shape": [1]}
    facts: Any = {
        "dataset_id": "tests/fuzz-v0",
        "action_space": json.dumps(box),
        "data_format": "hdf5",
        "total_episodes": count if honest else 3,
        "author": ["somebody"],
    }
    if SPACES[space] is not None:
        facts["observation_space"] = json.dumps(SPACES[space])
    if isinstance(metadata, tuple):
        facts[metadata[0]] = metadata[1]
    elif metadata == "absent":
        del facts["action_space"]
    elif metadata == "a list":
        facts = [facts]
    (folder / "metadata.json").write_text("{" if metadata == "not json" else json.dumps(facts))


def independent_bounds(action_box: str, options: dict[str, Any], actions: list[float]) -> tuple[float, float]:
    margin = 0.05 * (max(actions) - min(actions))
    bounds = []
    for side, stored, reached in (
        ("low", BOXES[action_box][1], min(actions) - margin),
        ("high", BOXES[action_box][2], max(actions) + margin),
    ):
        wanted = options[f"action_{side}"]
        bounds.append(reached if wanted == "data" else float(np.ravel(stored if wanted is None else wanted)[0]))
    return bounds[0], bounds[1]


def independent_table(path: Path, options: dict[str, Any], action_box: str) -> list[list[np.ndarray]]:
    """Compute the rows one at a time, in float64, straight from the file."""
    with h5py.File(path / "main_data.hdf5", "r") as file:
        names = [name for name in file if name.startswith("episode_")]
        names.sort(key=lambda name: int(name[8:]))
        stored = [{key: file[name][key][()] for key in KEYS[1:]} for name in names]
        for raw, name in zip(stored, names, strict=True):
            raw["observations"] = stored_observations(file[name])[()]
    low, high = independent_bounds(action_box, options, [float(a) for raw in stored for a in np.ravel(raw["actions"])])
    episodes = []
    for raw in stored:
        reward = [float(np.float32(r)) for r in raw["rewards"].reshape(-1)]
        ends = [bool(e) for e in raw["terminations"].reshape(-1)]
        if options["terminals"] in ("reward", "first_success"):
            ends = [r > 0 for r in reward]
        steps = len(reward)
        if options["terminals"] == "first_success" and any(ends):
            steps = ends.index(True) + 1
        observation = [np.asarray(o, dtype=np.float32).reshape(-1) for o in raw["observations"]]
        action = [2 * (np.asarray(a, dtype=np.float64).reshape(-1) - low) / (high - low) - 1 for a in raw["actions"]]
        episodes.append((observation, action, reward[:steps], ends[:steps]))
    every = [r for _, _, reward, _ in episodes for r in reward]
    mean, low = sum(every) / len(every), min(every)
    spread = math.sqrt(sum((r - mean) ** 2 for r in every) / len(every))
    returns = [sum(reward) for _, _, reward, _ in episodes]
    new = {
        "none": lambda r: r,
        "affine": lambda r: (r + options["reward_shift"]) * options["reward_scale"],
        "standardize": lambda r: (r - mean) / spread,
        "min_max": lambda r: 2 * (r - low) / (max(every) - low) - 1,
        "return_range": lambda r: r * 1000 / (max(returns) - min(returns)),
    }[options["reward_transform"]]
    bound = 1 - options["action_clip_eps"]
    rows = []
    for observation, action, reward, ends in episodes:
        for t in range(len(reward)):
            total, k, ended = 0.0, 0, False
            while k < options["n_step"] and t + k < len(reward) and not ended:
                total += options["discount"] ** k * new(reward[t + k])
                ended = ends[t + k]
                k += 1
            chunk = options["action_chunk"]
            if k < chunk and not ended:
                continue
            actions = np.stack([np.clip(action[min(t + j, len(reward) - 1)], -bound, bound) for j in range(chunk)])
            values = [observation[t], actions, total, observation[t + k], float(ended), float(k)]
            rows.append([np.asarray(value, dtype=np.float64).reshape(-1) for value in values])
    return rows


def check_dataset(
    root: Path, changes: Any, metadata: Any, cut: float, honest: bool, declared: tuple[str, str], options: dict[str, Any]
) -> bool:
    """Read a spoilt set; return whether there was a table to compare."""
    folder = root / "tests" / "fuzz-v0" / "data"
    folder.mkdir(parents=True, exist_ok=True)
    write(folder, changes, metadata, cut, honest, declared)
    module = OfflineDataModule("tests/fuzz-v0", **options)
    refusal = None
    try:
        module.prepare_data()
        module.setup("validate")
    except UserError as error:
        refusal = str(error).strip()
    if refusal is not None:
        assert any(
            part in refusal for part in ("fuzz-v0", "reward_transform", "action_chunk", "data.action_high has 2 numbers")
        )
        assert "\n" not in refusal, "more than one message"
        return False
    assert declared[0] not in ("image", "category"), "two numbers in a row do not fit these"
    expected = independent_table(folder, options, declared[1])
    assert len(module.transitions.reward) == len(expected)
    for column, name in enumerate(module.transitions._fields):
        found = getattr(module.transitions, name).double().numpy().reshape(len(expected), -1)
        wanted = np.stack([row[column] for row in expected])
        np.testing.assert_allclose(found, wanted, rtol=2e-5, atol=1e-4, err_msg=name)
    return True


CASE = (
    st.lists(CHANGES, max_size=3),
    METADATA,
    st.one_of(st.just(1.0), st.just(1.0), st.floats(0, 0.999)),
    st.booleans(),
    DECLARED,
    OPTIONS,
)


@settings(max_examples=60, derandomize=True, **FUZZ_SETTINGS)
@given(*CASE)
def test_a_spoilt_set_gives_one_error_or_the_right_table(minari_root, changes, metadata, cut, honest, declared, options):
    check_dataset(minari_root, changes, metadata, cut, honest, declared, options)


@pytest.mark.slow
def test_two_thousand_spoilt_sets(minari_root):
    outcomes: list[bool] = []

    @settings(max_examples=2500, **FUZZ_SETTINGS)
    @given(*CASE)
    def fuzz(changes, metadata, cut, honest, declared, options):
        outcomes.append(check_dataset(minari_root, changes, metadata, cut, honest, declared, options))

    fuzz()
    print(f"{len(outcomes)} sets: {sum(outcomes)} correct tables, {len(outcomes) - sum(outcomes)} errors")
    assert len(outcomes) >= 2000
    assert min(sum(outcomes), len(outcomes) - sum(outcomes)) >= 200, "one of the two outcomes is hardly tested"
