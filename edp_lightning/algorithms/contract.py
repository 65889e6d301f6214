"""What an algorithm is asked for: by the training that all share, by callbacks, and by the data module."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import lightning as L
import torch
from torch import Tensor

from edp_lightning.algorithms.inspection import Critics, Follower, StepReport, TunableEntropy
from edp_lightning.algorithms.optimization import Learner
from edp_lightning.data.transitions import Batch
from edp_lightning.policies.acting import ActionChooser
from edp_lightning.runs.compatibility import WIDTHS


class AlgorithmContract(L.LightningModule, ABC):
    """The methods that make an algorithm, and questions that others ask it, with the answers of one that has nothing special.

    A subclass of :class:`OfflineAlgorithm` writes :meth:`build` (networks), :meth:`learners` (their optimizers),
    :meth:`draw_noise` and :meth:`step_on` (the losses of one step; or :meth:`gradient_step` instead) and :meth:`choose` (an
    action). Where it has them it also tells which networks follow others (:meth:`target_networks`, :meth:`ema_networks`), what
    its critics say (:attr:`critics`) and whether its entropy can be tuned (:attr:`tunable_entropy`); callbacks ask for these.
    """

    at_least: ClassVar[dict[str, float]] = {
        **dict.fromkeys(("observation_dim", "action_dim", "hidden_dims", "num_critics"), 1),
        **dict.fromkeys(("num_diffusion_steps", "num_backup_actions", "num_candidates"), 1),
        **dict.fromkeys(("discount", "gradient_clip_val", "candidate_temperature", "actor_lr", "critic_lr"), 0),
    }
    """Option -> smallest value, for a list of each entry; the field's usual names. Subclasses add theirs."""

    at_most: ClassVar[dict[str, float]] = {"discount": 1}
    """Option -> largest value."""

    fixed_options: ClassVar[tuple[str, ...]] = WIDTHS
    """Options that must be those of a checkpoint that is gone on from or judged: its weights mean something else otherwise."""

    necessary_callbacks: ClassVar[tuple[str, ...]] = ("edp_lightning.callbacks.TargetNetworkUpdate",)
    """Import paths of callbacks that every training needs; names only, as callbacks know algorithms and not the reverse."""

    remembers: ClassVar[bool] = False
    """Whether an action depends on earlier steps of its episode: :meth:`act` must then be told of all of them."""

    heeds_cloned_rows: ClassVar[bool] = False
    """Whether the behaviour loss leaves out what is behind ``cloned_rows``."""

    cloned_rows: int | None = None
    """How many rows of a batch, its first, the behaviour loss counts; all of them when None."""

    observation_dim: int
    action_dim: int
    hidden_dtype: torch.dtype

    chooser: ActionChooser | None = None
    """What samples candidates and takes one, where :meth:`choose` does that; another form of it may take its place."""

    @abstractmethod
    def build(self, observation_dim: int, action_dim: int) -> None:
        """Create the networks as attributes of this module; ``self.hidden_dtype`` is the precision of their products."""

    @abstractmethod
    def learners(self) -> dict[str, Learner]:
        """Return how each trained submodule is trained, by its name. The first one must be updated in every step."""

    def draw_noise(self, step: int, rows: int) -> Any:
        """Return all random numbers of a gradient step on ``rows`` rows, for :meth:`step_on`: nested tuples of tensors."""
        raise NotImplementedError(f"{type(self).__name__} needs draw_noise and step_on, or a gradient_step of its own")

    def step_on(self, batch: Batch, noise: Any) -> StepReport | None:
        """Take one gradient step on this rank's batch with given random numbers: one :meth:`update` per learner.

        It can be recorded as a CUDA graph: it must not wait for the device, and keep its state in tensors that it changes in
        place.
        """
        raise NotImplementedError(f"{type(self).__name__} needs draw_noise and step_on, or a gradient_step of its own")

    def gradient_step(self, batch: Batch, step: int) -> StepReport | None:
        """Take gradient step ``step`` (counted from 0) on this rank's batch.

        An algorithm whose steps differ by more than their random numbers replaces this; it is then never recorded.
        """
        return self.step_on(batch, self.draw_noise(step, len(batch.action)))

    @abstractmethod
    def choose(self, observation: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
        """Return one action in [-1, 1] per normalised observation (batch, observation_dim): (batch, action_dim).

        ``generators`` are one CPU generator per row: a row's action must not depend on the other rows.
        """

    def target_networks(self) -> Sequence[Follower]:
        """Return the networks that follow others by Polyak averaging in every gradient step."""
        return ()

    def ema_networks(self) -> Sequence[Follower]:
        """Return the networks that are exponential averages of others, on a schedule of their own."""
        return ()

    @property
    def critics(self) -> Critics | None:
        """The critics that diagnostics may judge, if there are any."""
        return None

    @property
    def uses_values(self) -> bool:
        """Whether actions depend on what critics have learned."""
        return self.critics is not None

    @property
    def tunable_entropy(self) -> TunableEntropy | None:
        """The entropy term whose coefficient may be learned, if there is one."""
        return None

    @property
    def discount(self) -> float | None:
        """Discount per environment step; None where the method knows no values."""
        return self.hparams.get("discount")

    @property
    def uses_next_action(self) -> bool:
        """Whether batches must hold the data's action in s': they are then a ``SuccessorBatch``."""
        return False

    @property
    def context_length(self) -> int | None:
        """Steps that a decision may look back on, where a method learns from windows: batches are then a ``WindowBatch``."""
        return None

    @property
    def target_returns(self) -> Sequence[float]:
        """Returns that an evaluation asks the policy for, in the environment's units; none where it cannot be asked."""
        return ()

    def counting_target(self, scores: Mapping[float, float]) -> float:
        """Return the target whose episodes are the evaluation's result.

        Args:
            scores: Score of each of ``target_returns``, in their order.
        """
        return max(scores, key=scores.__getitem__)

    def draw_actions(self, observation: Tensor, generator: torch.Generator) -> Tensor | None:
        """Return one plain draw of the policy per normalised observation, in [-1, 1], (batch, action_dim), if it can."""
        return None

    def decision_facts(self) -> dict[str, Any]:
        """Return what a result file should say about how actions were chosen."""
        return {}

    def prepare_step(self, compiled: bool) -> None:
        """Choose whether the functions of a gradient step are compiled for this module's device; where none can be, nothing.

        Called when the networks are built, and when a training begins, with the option ``compile``.
        """

    def forget_units(self) -> None:
        """Forget what was measured in units of actions that no longer hold; the networks learn the new ones."""

    def reset(self, episode: int, target_return: float | None = None) -> None:
        """Begin an episode: forget what was remembered under its number. Policies without a memory do nothing.

        Args:
            episode: Number of the episode; memory is kept for all numbers up to the largest.
            target_return: What it is to earn, for policies that can be asked; their first of ``target_returns`` by default.
        """
