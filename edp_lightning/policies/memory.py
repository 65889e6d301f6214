"""What a policy remembers of an episode, as tensors that it is handed and hands back: a form that leaves the package."""

from typing import Protocol, runtime_checkable

from torch import Tensor

Memory = dict[str, Tensor]
"""What is remembered, by name, (batch, ...), float32."""


@runtime_checkable
class ActsFromMemory(Protocol):
    """An algorithm whose actions depend on the earlier steps of their episodes, and on nothing else that it keeps."""

    @property
    def longest_episode(self) -> int:
        """Steps after which an episode must be over."""

    def initial_memory(self, target_return: float | None = None) -> Memory:
        """Return one row of what is remembered before an episode: zeros, but for what it is asked to earn."""

    def act_from_memory(self, observation: Tensor, reward: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Choose one action per observation, and return what is remembered after it.

        Args:
            observation: Observations as the environment gives them, shape (batch, observation_dim).
            reward: What was paid for the last action, shape (batch, 1); not looked at in an episode's first step.
            memory: What was remembered before.

        Returns:
            Actions in the environment's units, shape (batch, action_dim), and the memory of the next step.
        """
