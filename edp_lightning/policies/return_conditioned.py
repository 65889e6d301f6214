"""A policy that is told what is still to be earned, and what it saw and did before (arXiv 2106.01345)."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from edp_lightning.errors import UserError
from edp_lightning.networks.causal_transformer import CausalTransformer, KeptInBlock, drop, initialize
from edp_lightning.networks.perceptron import CastLinear

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
    """

    def __init__(
        self,
        observation_dim: int,
        action_dim: int,
        max_episode_length: int,
        transformer: CausalTransformer,
        embedding_dim: int,
        embedding_dropout: float = 0.0,
    ) -> None:
        super().__init__()
        self.embedding_dropout = embedding_dropout
        self.embed_timestep = nn.Embedding(max_episode_length, embedding_dim)
        self.embed_return = CastLinear(1, embedding_dim)
        self.embed_observation = CastLinear(observation_dim, embedding_dim)
        self.embed_action = CastLinear(action_dim, embedding_dim)
        self.norm = nn.LayerNorm(embedding_dim)
        self.transformer = transformer
        self.output = CastLinear(embedding_dim, action_dim)
        self.apply(initialize)

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


class Steps(NamedTuple):
    """The last steps of several episodes, padded behind; the first four are arguments of the policy.

    Attributes:
        observation: Normalised, shape (batch, K, observation_dim).
        action: Shape (batch, K, action_dim); that of the present step is zero.
        return_to_go: Shape (batch, K).
        timestep: Shape (batch, K).
        present: Where in K the present step is, shape (batch,).
    """

    observation: Tensor
    action: Tensor
    return_to_go: Tensor
    timestep: Tensor
    present: Tensor


class EpisodeMemory:
    """The last K steps of numbered episodes that are being played, and what each has still to earn.

    Args:
        context_length: K.
        max_episode_length: Steps after which an episode must be over.
        return_scale: Divides returns.
        observation_dim: Width of an observation.
        action_dim: Width of an action.
        device: Where the steps are kept.

    Attributes:
        device: The same.
    """

    def __init__(
        self,
        context_length: int,
        max_episode_length: int,
        return_scale: float,
        observation_dim: int,
        action_dim: int,
        device: torch.device,
    ) -> None:
        self._context_length = context_length
        self._max_episode_length = max_episode_length
        self._return_scale = return_scale
        self.device = device
        self._observation = torch.zeros(0, context_length, observation_dim, device=device)
        self._action = torch.zeros(0, context_length, action_dim, device=device)
        self._return_to_go = torch.zeros(0, context_length, device=device)
        self._left: list[float] = []  # to earn, in the environment's units
        self._count: list[int] = []  # steps so far; -1 for an episode that has not begun

    def reset(self, episode: int, target_return: float) -> None:
        """Begin an episode that is to earn ``target_return``, in the environment's units."""
        more = episode + 1 - len(self._count)
        if more > 0:
            grown = (
                torch.cat([x, x.new_zeros(more, *x.shape[1:])]) for x in (self._observation, self._action, self._return_to_go)
            )
            self._observation, self._action, self._return_to_go = grown
            self._left += [0.0] * more
            self._count += [-1] * more
        self._left[episode], self._count[episode] = target_return, 0

    def see(self, episodes: Sequence[int], observation: Tensor, rewards: Sequence[float]) -> Steps:
        """Add the present step of each episode and return what led to it.

        Args:
            episodes: Their numbers, all different.
            observation: What is seen now, normalised, shape (batch, observation_dim).
            rewards: What each episode paid since its last action.

        Raises:
            UserError: If an episode goes on beyond the longest there may be.
        """
        for episode, reward in zip(episodes, rewards, strict=True):
            assert self._count[episode] >= 0, "episodes are begun with reset"
            if self._count[episode] == self._max_episode_length:
                raise UserError(
                    f"an episode goes on after {self._max_episode_length} steps, for which the policy has no embeddings: end "
                    "it there (data.max_episode_steps), or train with a larger model.max_episode_length"
                )
            self._left[episode] -= reward if self._count[episode] else 0.0
            self._count[episode] += 1
        device, length = self._observation.device, self._context_length
        rows = torch.tensor(list(episodes), device=device)
        count = torch.tensor([self._count[episode] for episode in episodes], device=device)
        full = rows[count > length]
        for kept in (self._observation, self._action, self._return_to_go):
            kept[full] = kept[full].roll(-1, dims=1)
        present = count.clamp(max=length) - 1
        left = torch.tensor([self._left[episode] / self._return_scale for episode in episodes], device=device)
        self._observation[rows, present] = observation
        self._action[rows, present] = 0.0
        self._return_to_go[rows, present] = left
        used = int(present.max()) + 1
        at = torch.arange(used, device=device)
        timestep = ((count - 1 - present).unsqueeze(1) + at).clamp(max=self._max_episode_length - 1)
        seen, done, to_go = (x[rows, :used] for x in (self._observation, self._action, self._return_to_go))
        return Steps(seen, done, to_go, timestep, present)

    def did(self, episodes: Sequence[int], action: Tensor, present: Tensor) -> None:
        """Add the actions (batch, action_dim) of the present steps, in [-1, 1]."""
        self._action[torch.tensor(list(episodes), device=action.device), present] = action
