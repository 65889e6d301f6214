"""Physics of many robots at once: states in, states out, by ``mujoco.rollout``."""
