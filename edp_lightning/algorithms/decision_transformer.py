"""Decision Transformer: imitates the data's actions as a function of what was still to be earned after them."""

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor

from edp_lightning.acceleration.compilation import preparation
from edp_lightning.algorithms.inspection import StepReport
from edp_lightning.algorithms.offline_algorithm import OfflineAlgorithm
from edp_lightning.algorithms.optimization import Learner, decayed_adam
from edp_lightning.data.transitions import WindowBatch
from edp_lightning.errors import UserError
from edp_lightning.networks.causal_transformer import CausalTransformer, KeptInBlock
from edp_lightning.policies.memory import Memory
from edp_lightning.policies.return_conditioned import TOKENS, EmbeddingInit, Kept, ReturnConditionedPolicy, Window, go_on


class DecisionTransformer(OfflineAlgorithm):
    """Decision Transformer (Chen et al., NeurIPS 2021, arXiv 2106.01345), as in CORL's ``dt.py`` and its authors' code.

    Its batches are windows of trajectories (:class:`WindowBatch`). Asked for a return, it acts as the data did where they
    earned it: an evaluation plays all of ``target_returns``, and lowers what is asked for by each reward.

    Args:
        embedding_dim: Width of a token.
        num_layers: Blocks of the transformer.
        num_heads: Heads of its attention; divides ``embedding_dim``.
        context_length: Steps K that an action looks back on, the present one among them.
        max_episode_length: Steps of an episode that can be told apart; no trajectory and no evaluation may be longer.
        activation: Of the blocks' perceptrons: ``gelu`` as in CORL, or ``relu`` as in the authors' code.
        embedding_dropout: Probability that a number of the tokens' embeddings is dropped in training.
        embedding_init: Where the maps and vectors of tokens, and the last map, start: ``normal``, from N(0, 0.02^2) as the
            transformer and as in CORL, or ``torch``, PyTorch's own start as in the authors' code.
        attention_dropout: Probability that a weight of the attention is dropped in training.
        residual_dropout: Probability that an output of a block's attention or perceptron is dropped in training.
        return_scale: Divides returns for the network.
        target_returns: Returns to ask for, in the environment's units, before division. When not given, the largest return of
            a trajectory in the data. Outside of evaluations the first one counts.
        target_choice: Which target's episodes are an evaluation's result, beside which the others are reported: ``best``, that
            of the highest score, as published results are chosen, or the ``first``.
        actor_lr: AdamW learning rate after the warm-up.
        warmup_steps: Gradient steps over which the learning rate rises linearly to it.
        weight_decay: Decay of all weights, in units of the learning rate.
        gradient_clip_val: Bound on the gradient norm; null for none.
        kwargs: Options of every algorithm.
    """

    at_least = OfflineAlgorithm.at_least | {
        **dict.fromkeys(("embedding_dim", "num_layers", "num_heads", "context_length", "max_episode_length"), 1),
        **dict.fromkeys(("embedding_dropout", "attention_dropout", "residual_dropout", "warmup_steps", "weight_decay"), 0),
    }
    at_most = OfflineAlgorithm.at_most | dict.fromkeys(("embedding_dropout", "attention_dropout", "residual_dropout"), 0.99)
    fixed_options = (
        *(*OfflineAlgorithm.fixed_options, "embedding_dim", "num_layers", "num_heads", "context_length", "max_episode_length"),
        *("activation", "return_scale"),
    )
    remembers = True

    def __init__(
        self,
        embedding_dim: int = 128,
        num_layers: int = 3,
        num_heads: int = 1,
        context_length: int = 20,
        max_episode_length: int = 1000,
        activation: Literal["gelu", "relu"] = "gelu",
        embedding_dropout: float = 0.1,
        embedding_init: EmbeddingInit = "normal",
        attention_dropout: float = 0.1,
        residual_dropout: float = 0.1,
        return_scale: float = 1000.0,
        target_returns: Sequence[float] | None = None,
        target_choice: Literal["best", "first"] = "best",
        actor_lr: float = 1.0e-4,
        warmup_steps: int = 10_000,
        weight_decay: float = 1.0e-4,
        gradient_clip_val: float | None = 0.25,
        **kwargs: Any,
    ) -> None:
        target_returns = None if target_returns is None else [float(target) for target in target_returns]
        super().__init__(gradient_clip_val=gradient_clip_val, **kwargs)
        if embedding_dim % num_heads:
            raise UserError(f"model.num_heads ({num_heads}) must divide model.embedding_dim ({embedding_dim})")
        if return_scale <= 0:
            raise UserError(f"model.return_scale divides returns and must be above 0; got {return_scale}")
        if target_returns is not None and len(set(target_returns)) != max(1, len(target_returns)):
            raise UserError(f"model.target_returns must name at least one return, each once; got {target_returns}")
        self._memory: dict[int, Memory] = {}  # episode -> what is remembered of it

    @property
    def context_length(self) -> int:
        """Steps of a window."""
        return int(self.hparams["context_length"])

    @property
    def target_returns(self) -> Sequence[float]:
        """Returns to ask for."""
        targets: Sequence[float] = self.hparams["target_returns"]
        return targets

    def counting_target(self, scores: Mapping[float, float]) -> float:
        """Return the target that ``target_choice`` names."""
        return super().counting_target(scores) if self.hparams["target_choice"] == "best" else next(iter(scores))

    def setup(self, stage: str) -> None:
        """Refuse episodes that are too long, and data without trajectories."""
        super().setup(stage)
        data: Any = getattr(self.trainer, "datamodule", None)
        longest, environment = self.hparams["max_episode_length"], getattr(data, "environment", None)
        if environment is not None and environment.max_episode_steps > longest:
            raise UserError(
                f"an evaluation's episode may take {environment.max_episode_steps} steps, but model.max_episode_length is "
                f"{longest}: raise it, or set data.max_episode_steps"
            )
        if stage == "fit" and hasattr(data, "trajectories"):
            found = data.trajectories().longest
            if found > longest:
                raise UserError(
                    f"the longest trajectory of {data.dataset} has {found} steps, but model.max_episode_length is {longest}: "
                    "raise it, or mark the ends of episodes in the data"
                )

    def build(self, observation_dim: int, action_dim: int) -> None:
        """Create the policy, and take the target over from the data where none is given."""
        h: Any = self.hparams
        if h.target_returns is None:
            h.target_returns = [self._largest_return()]
        dropout = h.attention_dropout, h.residual_dropout
        transformer = CausalTransformer(
            h.embedding_dim, h.num_layers, h.num_heads, h.activation, *dropout, hidden_dtype=self.hidden_dtype
        )
        sizes = observation_dim, action_dim, h.max_episode_length
        self.actor = ReturnConditionedPolicy(*sizes, transformer, h.embedding_dim, h.embedding_dropout, h.embedding_init)

    def _largest_return(self) -> float:
        data: Any = None if self._trainer is None else getattr(self.trainer, "datamodule", None)
        if not hasattr(data, "trajectories"):
            raise UserError("model.target_returns is not set and there is no dataset to take the largest return from")
        largest: float = data.trajectories().largest_return
        return largest

    def learners(self) -> dict[str, Learner]:
        """Return the policy."""
        h: Any = self.hparams
        decayed = partial(decayed_adam, weight_decay=h.weight_decay)
        return {"actor": Learner(h.actor_lr, warmup_steps=h.warmup_steps, optimizer=decayed)}

    def prepare_step(self, compiled: bool) -> None:
        """Choose whether the loss is compiled for this module's device."""
        self._squared_error = preparation(compiled)(_squared_error)

    def draw_noise(self, step: int, rows: int) -> Kept:
        """Return what dropout keeps in a gradient step."""
        h: Any = self.hparams
        noise, tokens = self.row_noise(step), TOKENS * h.context_length
        weights, numbers = (rows, h.num_heads, tokens, tokens), (rows, tokens, h.embedding_dim)
        embedding = noise.kept(*numbers, probability=h.embedding_dropout)
        blocks = [
            KeptInBlock(
                noise.kept(*weights, probability=h.attention_dropout),
                noise.kept(*numbers, probability=h.residual_dropout),
                noise.kept(*numbers, probability=h.residual_dropout),
            )
            for _ in range(h.num_layers)
        ]
        return Kept(embedding, blocks)

    def step_on(self, batch: Any, noise: Kept) -> StepReport:
        """Take one gradient step with given dropout: mean squared error over the steps that exist."""
        if not isinstance(batch, WindowBatch):
            raise UserError(
                "the DecisionTransformer learns from windows of whole trajectories, which these batches do not hold: train it "
                "on edp_lightning's OfflineDataModule"
            )
        window = (
            self.normalizer(batch.observation),
            batch.action,
            batch.return_to_go / self.hparams["return_scale"],
            batch.timestep,
        )
        total = self._squared_error(self.actor, window, batch.mask, noise)
        steps = batch.mask.sum()
        self.update("actor", total / (self.mean_over_ranks(steps) * self.action_dim))
        return StepReport(lambda: {"actor/padding": 1 - steps / batch.mask.numel()})

    def choose(self, observation: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Return the actions of the first steps of episodes that are to earn the first target."""
        rows = len(observation)
        window = Window(*(value.expand(rows, *value.shape[1:]) for value in self.initial_memory().values()))
        return go_on(self.actor, window, observation, observation.new_zeros(rows, 1), self.hparams["return_scale"])[0]

    @property
    def longest_episode(self) -> int:
        """Steps that have a vector of their own."""
        return int(self.hparams["max_episode_length"])

    def initial_memory(self, target_return: float | None = None) -> Memory:
        """Return what is known before an episode that is to earn ``target_return``, or the first of ``target_returns``."""
        zeros, length = partial(torch.zeros, device=self.device), self.context_length
        window = Window(
            zeros(1, length, self.observation_dim),
            zeros(1, length, self.action_dim),
            zeros(1, length),
            zeros(1, 1),
            zeros(1, 1),
        )
        target = self.target_returns[0] if target_return is None else target_return
        return window._replace(target_return=window.target_return + target)._asdict()

    def act_from_memory(self, observation: Tensor, reward: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
        """Choose the next action of each episode; see :class:`ActsFromMemory`."""
        scale = self.hparams["return_scale"]
        action, window = go_on(self.actor, Window(**memory), self.normalizer(observation), reward, scale)
        result: Tensor = self.action_scaler(action)
        return result, window._asdict()

    @torch.no_grad()
    def act(
        self,
        observation: Tensor,
        generators: Sequence[torch.Generator],
        episodes: Sequence[int] | None = None,
        rewards: Sequence[float] | None = None,
    ) -> Tensor:
        """Choose one action per observation, as the next steps of ``episodes`` if they are named; see the base."""
        if episodes is None:
            return super().act(observation, generators)
        assert rewards is not None, "the return still to be earned falls with every reward"
        assert all(episode in self._memory for episode in episodes), "episodes are begun with reset"
        memory = {name: torch.cat([self._memory[episode][name] for episode in episodes]) for name in self._memory[episodes[0]]}
        if bool((memory["steps"] >= self.longest_episode).any()):
            raise UserError(
                f"an episode goes on after {self.longest_episode} steps, for which the policy has no embeddings: end it there "
                "(data.max_episode_steps), or train with a larger model.max_episode_length"
            )
        paid = torch.tensor(rewards, dtype=torch.float32, device=self.device).unsqueeze(1)
        action, memory = self.act_from_memory(observation.to(self.device), paid, memory)
        for row, episode in enumerate(episodes):
            self._memory[episode] = {name: value[row : row + 1] for name, value in memory.items()}
        return action

    def reset(self, episode: int, target_return: float | None = None) -> None:
        """Begin an episode that is to earn ``target_return``, or the first of ``target_returns``."""
        self._memory[episode] = self.initial_memory(target_return)

    def decision_facts(self) -> dict[str, Any]:
        """Return what actions were conditioned on, and which target's episodes count."""
        h: Any = self.hparams
        return {"targets": list(h.target_returns), "target_choice": h.target_choice, "context_length": h.context_length}


def _squared_error(
    actor: ReturnConditionedPolicy, window: tuple[Tensor, Tensor, Tensor, Tensor], mask: Tensor, kept: Kept
) -> Tensor:
    """Return the sum of the squared errors of the actions at steps that exist."""
    result: Tensor = ((actor(*window, kept) - window[1]).square().sum(-1) * mask).sum()
    return result
