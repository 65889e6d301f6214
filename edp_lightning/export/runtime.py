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

    The random numbers of its decisions come from numpy's generator; the file itself holds none.

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
        self.reset(seed)

    def reset(self, seed: int = 0) -> None:
        """Start the random numbers again."""
        self._random = np.random.default_rng(seed)

    def act(self, observation: ArrayLike) -> Floats:
        """Choose one action per observation, (observation_dim,) or (batch, observation_dim): the same with action_dim.

        Raises:
            ValueError: If the observation has another shape, or holds NaN or infinite values.
        """
        rows = np.asarray(observation, dtype=np.float32)
        if rows.ndim not in (1, 2) or rows.shape[-1] != self.observation_dim or not np.isfinite(rows).all():
            width = self.observation_dim
            raise ValueError(f"an observation is finite numbers of shape ({width},) or (batch, {width}); got {rows.shape}")
        batch = rows.reshape(-1, self.observation_dim)
        if not self.facts["dynamic_batch"]:
            action = np.concatenate([self.decide(batch[i : i + 1])["action"] for i in range(len(batch))])
        else:
            action = self.decide(batch)["action"]
        return action if rows.ndim == 2 else action[0]

    def decide(self, observation: Floats, noise: Mapping[str, Floats] | None = None) -> dict[str, Floats]:
        """Return everything the file says about a batch of observations.

        Args:
            observation: Shape (batch, observation_dim), float32; a file without a dynamic batch takes one row.
            noise: The random numbers by name; see :meth:`draw`, which is used when not given.

        Returns:
            ``action`` (batch, action_dim), and for policies that choose among candidates ``candidates`` (batch, count,
            action_dim) and their ``scores`` (batch, count).
        """
        noise = self.draw(len(observation)) if noise is None else noise
        return dict(zip(self._outputs, self._session.run(self._outputs, {"observation": observation, **noise}), strict=True))

    def draw(self, rows: int) -> dict[str, Floats]:
        """Return random numbers for one decision on a batch, by the names of the file's inputs."""
        draws = {}
        for entry in self.facts["inputs"][1:]:
            shape = (rows, *entry["shape"][1:])
            if entry["kind"] == "normal":
                draws[entry["name"]] = self._random.standard_normal(shape, dtype=np.float32)
            else:
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
