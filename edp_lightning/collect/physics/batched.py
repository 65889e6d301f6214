"""Steps many copies of one MuJoCo model with one call."""

from typing import Any

import mujoco
import numpy as np
from mujoco import rollout
from numpy.typing import NDArray

Array = NDArray[np.float64]


class BatchedPhysics:
    """Steps states of a MuJoCo model: rows (time, qpos, qvel), one per robot.

    A step depends on the state alone: solvers start cold, whatever was stepped before and in which thread. A simulation
    that goes on from step to step starts its solver warm, hence agrees with this one up to the solver's tolerance.

    Args:
        model: The model; it has no actuator states and no plugins.
        frames: Simulation steps per control step, > 0.
        threads: Threads that share the rows, > 0. Results do not depend on it.
    """

    def __init__(self, model: Any, frames: int, threads: int = 1) -> None:
        size = mujoco.mj_stateSize(model, mujoco.mjtState.mjSTATE_FULLPHYSICS)
        if size != 1 + model.nq + model.nv:
            raise ValueError(f"this model's state has {size} numbers, more than time, positions and velocities")
        self._model = model
        self._frames = frames
        self._data = [mujoco.MjData(model) for _ in range(threads)]
        self._rollout = rollout.Rollout(nthread=threads if threads > 1 else 0)
        self.state_dim = size
        self.seconds = float(frames * model.opt.timestep)

    def positions(self, states: Array) -> Array:
        """Return qpos, (B, nq), as a view."""
        return states[:, 1 : 1 + self._model.nq]

    def velocities(self, states: Array) -> Array:
        """Return qvel, (B, nv), as a view."""
        return states[:, 1 + self._model.nq :]

    def states(self, positions: Array, velocities: Array) -> Array:
        """Return states at time 0, (B, state_dim)."""
        return np.concatenate([np.zeros((len(positions), 1)), positions, velocities], axis=1)

    def step(self, states: Array, controls: Array) -> Array:
        """Return the states after one control step.

        Args:
            states: (B, state_dim).
            controls: (B, nu), held for all frames.

        Returns:
            (B, state_dim).
        """
        repeated = np.repeat(np.asarray(controls, dtype=np.float64)[:, None], self._frames, axis=1)
        after, _ = self._rollout.rollout(self._model, self._data, states, repeated)
        last: Array = after[:, -1].copy()
        return last

    def close(self) -> None:
        """End the threads."""
        self._rollout.close()
