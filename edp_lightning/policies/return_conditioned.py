"""A policy that is told what is still to be earned, and what it saw and did before (arXiv 2106.01345)."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from edp_lightning.networks.causal_transformer import CausalTransformer, KeptInBlock, drop, initialize
from edp_lightning.networks.perceptron import CastLinear

EmbeddingInit = Literal["normal", "torch"]

TOKENS = 3
"""Tokens per step: return-to-go, observation, action."""


class Kept(NamedTuple):
    """What dropout keeps, booleans; None where it keeps all.

    Attributes:
        embedding: Of the tokens' embeddings, shape (batch, 3 K, embedding_dim).
        blocks: In each block; nothing is dropped when empty.
    """

    embedding: Tensor | None = None
    blocks: Sequence[KeptInBlock] = ()


KEEP_ALL = Kept()


class ReturnConditionedPolicy(nn.Module):
    """Reads R_1 s_1 a_1 R_2 s_2 a_2 ... and says at each s_t which action comes next.

    Each token is an affine map of its number(s) plus a learned vector of its step in the episode.

    Args:
        observation_dim: Width of an observation.
        action_dim: Width of an action.
        max_episode_length: Steps in an episode that have a vector.
        transformer: What tokens go through.
        embedding_dim: Its width.
        embedding_dropout: Probability that a number of the embeddings is dropped.
        embedding_init: Where the maps and vectors of tokens, and the last map, start: ``normal``, from N(0, 0.02^2) like the
            transformer, or ``torch``, where PyTorch starts them.
    """

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        max_episode_length: int,
        transformer: CausalTransformer,
        embedding_dim: int,
        embedding_dropout: float = 0.0,
        embedding_init: EmbeddingInit = "normal",
    ) -> None:
        super().__init__()
        self.embedding_dropout = embedding_dropout
        self.max_episode_length = max_episode_length
        self.embed_timestep = nn.Embedding(max_episode_length, embedding_dim)
        self.embed_return = CastLinear(1, embedding_dim)
        self.embed_observation = CastLinear(observation_dim, embedding_dim)
        self.embed_action = CastLinear(action_dim, embedding_dim)
        self.norm = nn.LayerNorm(embedding_dim)
        self.transformer = transformer
        self.output = CastLinear(embedding_dim, action_dim)
        (self if embedding_init == "normal" else self.transformer).apply(initialize)

    def forward(
        self, observation: Tensor, action: Tensor, return_to_go: Tensor, timestep: Tensor, kept: Kept = KEEP_ALL
    ) -> Tensor:
        """Return the next action at every step, in [-1, 1], shape (batch, K, action_dim).

        A step's action depends on the steps before it, on its return-to-go and its observation. So neither its own ``action``
        nor padding behind it matters.

        Args:
            observation: Normalised observations, shape (batch, K, observation_dim).
            action: Actions that were taken, in [-1, 1], shape (batch, K, action_dim).
            return_to_go: What is still to be earned, divided by the return scale, shape (batch, K).
            timestep: Steps since the episode began, long, shape (batch, K).
            kept: What dropout keeps.
        """
        time = self.embed_timestep(timestep)
        tokens = torch.stack(
            [self.embed_return(return_to_go.unsqueeze(-1)), self.embed_observation(observation), self.embed_action(action)],
            dim=2,
        )
        tokens = self.norm((tokens + time.unsqueeze(2)).flatten(1, 2))
        tokens = self.transformer(drop(tokens, kept.embedding, self.embedding_dropout), kept.blocks)
        result: Tensor = self.output(tokens[:, 1::TOKENS]).tanh()
        return result


class Window(NamedTuple):
    """What a policy knows of the episodes that it is in the middle of, one row each; steps are padded behind.

    Attributes:
        observations: The last K observations, normalised, shape (batch, K, observation_dim).
        actions: What was done then, in [-1, 1], shape (batch, K, action_dim).
        returns_to_go: What was still to be earned then, divided by the return scale, shape (batch, K).
        target_return: What is still to be earned after the last step, in the environment's units, shape (batch, 1).
        steps: Steps that were seen, a whole number, shape (batch, 1).
    """

    observations: Tensor
    actions: Tensor
    returns_to_go: Tensor
    target_return: Tensor
    steps: Tensor


def go_on(
    policy: ReturnConditionedPolicy, window: Window, observation: Tensor, reward: Tensor, return_scale: float
) -> tuple[Tensor, Window]:
    """Return the next action of each episode, in [-1, 1], shape (batch, action_dim), and what is known after it.

    Written without a branch on numbers, so that it can be traced. Beyond the policy's longest episode every step counts as
    that episode's last.

    Args:
        policy: The policy.
        window: What was known before; an episode's first step finds zeros, but for ``target_return``.
        observation: What is seen now, normalised, shape (batch, observation_dim).
        reward: What was paid for the last action, shape (batch, 1); not looked at in a first step.
        return_scale: Divides returns.
    """
    length = window.observations.shape[1]
    full = window.steps >= length
    at = torch.arange(length, device=observation.device)
    present = at == window.steps.clamp(max=length - 1)  # (batch, K)
    left = window.target_return - torch.where(window.steps > 0, reward, 0.0)

    def moved_on(kept: Tensor) -> Tensor:
        return torch.where(full.unsqueeze(-1), kept.roll(-1, dims=1), kept)

    def with_present(kept: Tensor, value: Tensor) -> Tensor:
        return torch.where(present.unsqueeze(-1), value.unsqueeze(1), kept)

    seen = with_present(moved_on(window.observations), observation)
    done = with_present(moved_on(window.actions), torch.zeros_like(window.actions[:, 0]))
    to_go = with_present(moved_on(window.returns_to_go.unsqueeze(-1)), left / return_scale).squeeze(-1)
    begin = (window.steps - (length - 1)).clamp(min=0)
    timestep = (begin + at).clamp(max=policy.max_episode_length - 1).long()
    action = (policy(seen, done, to_go, timestep) * present.unsqueeze(-1)).sum(1)
    return action, Window(seen, with_present(done, action), to_go, left, window.steps + 1)
