"""Acts with a policy that was exported as ONNX. Needs numpy and onnxruntime alone; this file may be copied by itself.

.. code-block:: python

    policy = Policy("last.onnx")
    policy.check()  # the stored input gives the stored action on this machine, too
    action = policy.act(observation)
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import ArrayLike, NDArray

FORMAT_KEY = "edp_lightning_export"
FORMAT_VERSION = 1
"""Layout of the JSON beside an exported file."""

Floats = NDArray[np.float32]


class Policy:
    """An exported policy: observations in, actions out, both in the environment's units.

    The random numbers of its decisions come from numpy's generator; the file itself holds none. What a policy remembers of its
    episodes is kept here, from one :meth:`reset` to the next.

    Args:
        path: The ONNX file; what is known about it lies beside it, ``FILE.json``.
        seed: Seed of the random numbers.
        threads: Threads of a decision.
        providers: Devices of onnxruntime, the preferred one first.

    Attributes:
        facts: What the JSON says: shapes, bounds, dataset, versions, a stored input with its action.

    Raises:
        ValueError: If the JSON is not one of an exported policy, or of a newer format.
    """

    def __init__(
        self, path: str | Path, seed: int = 0, threads: int = 1, providers: Sequence[str] = ("CPUExecutionProvider",)
    ) -> None:
        beside = Path(f"{path}.json")
        self.facts: dict[str, Any] = json.loads(beside.read_text())
        version = self.facts.get(FORMAT_KEY)
        if not isinstance(version, int) or version > FORMAT_VERSION:
            raise ValueError(f"{beside} has {FORMAT_KEY} {version}; this program reads up to {FORMAT_VERSION}")
        self.observation_dim: int = self.facts["inputs"][0]["shape"][1]
        self.action_dim: int = len(self.facts["action_low"])
        self.action_low, self.action_high = (np.array(self.facts[f"action_{end}"], np.float32) for end in ("low", "high"))
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = threads
        self._session = onnxruntime.InferenceSession(str(path), options, providers=list(providers))
        self._outputs = [output["name"] for output in self.facts["outputs"]]
        kept = [entry for entry in self.facts["inputs"] if entry["kind"] == "memory"]
        self._initial = {entry["name"]: np.array(entry["initial"], np.float32) for entry in kept}
        self.reset(seed)

    def reset(self, seed: int = 0, **remembered: float) -> None:
        """Start the random numbers again, and begin new episodes.

        Args:
            seed: Seed of the random numbers.
            remembered: Numbers that a memory begins with instead of those of the JSON: ``target_return=3000.0``.

        Raises:
            ValueError: If there is no memory of such a name.
        """
        if unknown := sorted(set(remembered) - set(self._initial)):
            raise ValueError(f"this policy remembers nothing called {', '.join(unknown)}; known: {', '.join(self._initial)}")
        self._random = np.random.default_rng(seed)
        self._begin = {
            name: np.full_like(x, remembered[name]) if name in remembered else x for name, x in self._initial.items()
        }
        self._memory: dict[str, Floats] = {}
        self._steps = 0

    def act(self, observation: ArrayLike, reward: ArrayLike | None = None) -> Floats:
        """Choose one action per observation, (observation_dim,) or (batch, observation_dim): the same with action_dim.

        Args:
            observation: What is seen now. For a policy with a memory each row is an episode, from a :meth:`reset` on.
            reward: What was paid for the last action, one number or one per row; for a policy with a memory, from the second
                step on.

        Raises:
            ValueError: If the observation has another shape, or holds NaN or infinite values; if a policy with a memory is not
                told a finite reward, or meets another number of episodes or a longer one than it was trained for.
        """
        rows = np.asarray(observation, dtype=np.float32)
        if rows.ndim not in (1, 2) or rows.shape[-1] != self.observation_dim or not np.isfinite(rows).all():
            width = self.observation_dim
            raise ValueError(f"an observation is finite numbers of shape ({width},) or (batch, {width}); got {rows.shape}")
        batch = rows.reshape(-1, self.observation_dim)
        recalled = self._recall(len(batch), reward) if self._initial else {}
        size = len(batch) if self.facts["dynamic_batch"] else 1
        parts = []
        for start in range(0, len(batch), size):
            extras = {name: value[start : start + size] for name, value in recalled.items()}
            parts.append(self.decide(batch[start : start + size], self.draw(size) | extras))
        self._memory = {name: np.concatenate([part[f"next_{name}"] for part in parts]) for name in self._initial}
        self._steps += 1
        action = np.concatenate([part["action"] for part in parts])
        return action if rows.ndim == 2 else action[0]

    def _recall(self, rows: int, reward: ArrayLike | None) -> dict[str, Floats]:
        """Return the inputs of the next step of ``rows`` episodes."""
        if self._steps == self.facts["longest_episode"]:
            raise ValueError(f"an episode goes on after {self._steps} steps, the most that this policy tells apart: reset it")
        if not self._steps:
            return self._first(rows)
        if any(len(value) != rows for value in self._memory.values()):
            raise ValueError("a policy with a memory goes on in all the episodes that it began: reset it for another number")
        paid = np.asarray(np.nan if reward is None else reward, np.float32)
        if not np.isfinite(paid).all() or paid.size not in (1, rows):
            raise ValueError(f"this policy goes on from what was earned: give the last reward, finite, for {rows} episodes")
        return self._memory | {"reward": np.repeat(paid.reshape(-1, 1), rows // paid.size, axis=0)}

    def _first(self, rows: int) -> dict[str, Floats]:
        """Return the inputs of the first step of ``rows`` episodes."""
        begin = {name: np.repeat(value, rows, axis=0) for name, value in self._begin.items()}
        return begin | {"reward": np.zeros((rows, 1), np.float32)}

    def decide(self, observation: Floats, extras: Mapping[str, Floats] | None = None) -> dict[str, Floats]:
        """Return everything the file says about a batch of observations.

        Args:
            observation: Shape (batch, observation_dim), float32; a file without a dynamic batch takes one row.
            extras: The other inputs by name: random numbers, see :meth:`draw`, or ``reward`` and what is remembered. When not
                given, they are drawn, as for the first step of an episode.

        Returns:
            ``action`` (batch, action_dim); for policies that choose among candidates ``candidates`` (batch, count, action_dim)
            and their ``scores`` (batch, count); for policies with a memory what is to be handed in at the next step, by
            ``next_`` and its name.
        """
        if extras is None:
            extras = self.draw(len(observation)) | (self._first(len(observation)) if self._initial else {})
        return dict(zip(self._outputs, self._session.run(self._outputs, {"observation": observation, **extras}), strict=True))

    def draw(self, rows: int) -> dict[str, Floats]:
        """Return random numbers for one decision on a batch, by the names of the file's inputs."""
        draws = {}
        for entry in self.facts["inputs"]:
            shape = (rows, *entry["shape"][1:])
            if entry["kind"] == "normal":
                draws[entry["name"]] = self._random.standard_normal(shape, dtype=np.float32)
            elif entry["kind"] == "uniform":
                draws[entry["name"]] = self._random.random(shape, dtype=np.float32)
        return draws

    def check(self, tolerance: float = 1e-4) -> float:
        """Run the stored input and return the largest difference from the stored action, in units of half a bound's width.

        Raises:
            ValueError: If it is above ``tolerance``: this machine or this onnxruntime computes something else.
        """
        stored = {name: np.array(value, np.float32) for name, value in self.facts["example"].items()}
        expected = stored.pop("action")
        action = self.decide(stored.pop("observation"), stored)["action"]
        half = np.maximum((self.action_high - self.action_low) / 2, 1e-12)
        difference = float(np.max(np.abs(action - expected) / half))
        if not difference <= tolerance:
            raise ValueError(f"the stored input gives {action.tolist()} here and {expected.tolist()} where it was exported")
        return difference
