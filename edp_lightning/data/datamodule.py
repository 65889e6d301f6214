"""Serves batches of transitions, and tells the model and the evaluation what the dataset is."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal, cast

import lightning as L
import numpy as np
import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_only
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from edp_lightning.data.card import DataCard
from edp_lightning.data.columns import tell_losses
from edp_lightning.data.loader import OneBatch, TransitionLoader, mixture_probabilities, repeated_batches
from edp_lightning.data.opened import card_of, decide
from edp_lightning.data.replay import ReplayBuffer, ReplayLoader
from edp_lightning.data.sources.bounds import ActionBound
from edp_lightning.data.tables.facts import TableFacts
from edp_lightning.data.tables.normalize import ObservationNormalization, observation_statistics
from edp_lightning.data.tables.recipe import TableRecipe
from edp_lightning.data.tables.rewards import RewardMap, RewardTransform
from edp_lightning.data.tables.rows import labelled
from edp_lightning.data.tables.selection import check_share
from edp_lightning.data.tables.table import TransitionTable
from edp_lightning.data.trajectories import Trajectories, check_single_steps
from edp_lightning.data.transitions import AnyBatch, Batch, Episode, SuccessorBatch, Terminals, WindowBatch
from edp_lightning.errors import UserError
from edp_lightning.option_bounds import check_bounds
from edp_lightning.runs.plain import make_plain
from edp_lightning.runs.rng import untouched_streams

if TYPE_CHECKING:  # environments and file formats are imported when a dataset is opened, not for --help
    from edp_lightning.data.sources.source import Source
    from edp_lightning.environments.families import ObservationView
    from edp_lightning.environments.recipe import EvaluationEnvironment


class OfflineDataModule(L.LightningDataModule):
    """Holds a dataset as one table of transitions on the training device.

    Args:
        dataset: Minari id of a set on this machine; ``d4rl:NAME`` or ``d4rl:/PATH/FILE.hdf5`` for D4RL's files;
            ``ogbench:TASK`` for OGBench's, such as ``ogbench:antmaze-large-navigate-singletask-task1-v0``;
            ``npz:/PATH/FILE.npz`` for plain arrays (``edp_lightning/data/sources/arrays.py`` tells their names and shapes);
            ``online:/PATH/RUN`` for what a run collected online.
        view: Observation view; the family's default when not given, and where there is no family everything, in the order of
            the observation space. AntMaze: ``goal`` (31 numbers with the goal) or ``d4rl`` (29 numbers, reward relabelled to
            the evaluation's fixed goal, which the policy does not see). Keys of a Dict or Tuple with commas between choose
            parts.
        batch_size: Rows per batch and device.
        steps_per_epoch: Gradient steps per epoch; an epoch is only a unit for evaluation periods.
        terminals: ``env`` as stored, ``reward``: a positive reward is terminal, ``first_success``: and the episode is cut
            there. The family's default when not given (mazes: ``reward``).
        reward_transform: What is done to rewards: ``none``, ``affine``, ``standardize``, ``min_max`` or ``return_range``.
        reward_shift: For ``affine``: (r + shift) * scale.
        reward_scale: For ``affine``: (r + shift) * scale.
        normalize_observations: ``none``, ``standard`` (per dimension) or ``scalar`` (one mean and std); kept in the checkpoint.
        n_step: Environment steps per transition; windows end with the episode.
        discount: Discount inside n-step windows; the command line links it to ``model.discount``.
        action_low: Lower bounds of the actions instead of the dataset's: a number, or one per component. ``data``: the smallest
            action in the set less 5 % of the range, for sets that state no bounds.
        action_high: Upper bounds, likewise.
        scales: Whose scales a model that was trained before goes on with. ``checkpoint``: its own; its observation statistics
            are kept, and a dataset with other action bounds is refused. ``dataset``: those of this set.
        action_clip_eps: Distance that scaled actions keep from -1 and 1.
        action_chunk: Actions per decision: the policy chooses so many at once, which are then executed one after the other
            (Q-chunking, arXiv 2507.07969). At most ``n_step``; ``action_dim`` is so many times as wide.
        collect_steps: Steps to collect if ``dataset`` is one of the sets this package collects and is not on this machine.
        collect_seed: Seed of that collection.
        collect_workers: Processes of that collection; as many as torch has threads when not given.
        download: Allow Minari to download a missing set.
        environment: Gymnasium id of the evaluation environment, for sets that name none or another than wanted;
            ``package.module:Env-v0`` imports the module that registers it. ``none``: no evaluation.
        environment_kwargs: Further arguments of the evaluation environment.
        max_episode_steps: Time limit of an evaluation episode; when not given the environment's own, and without one the
            length of the data's longest episode.
        mixture: Further datasets of the same task, each with the probability that a row of a batch comes from it; the rest of
            the probability is left to ``dataset``. Statistics of rewards and observations are over all rows.
        validation: A set of the same task that is never trained on: at every evaluation the errors on it are logged beside
            those on the training set. OGBench's tasks have one: their name with ``-val`` at its end.
        best_share: Share of the episodes that the table holds, those of the highest discounted return; 10 % BC is 0.1.
        keep_time_limits: Of D4RL files with ``next_observations``, keep the rows at time limits too. Off: exactly the rows of
            ``d4rl.qlearning_dataset`` that published results train on; at one row in a thousand the choice hardly matters.
        cache: Keep the finished table on disk and map it in later runs; the folder is ``~/.cache/edp_lightning``, or what
            the environment variable ``EDP_LIGHTNING_CACHE`` says, and can be deleted at any time.
        seed: Seed of the batches; the command line links it to ``seed_everything``.
    """

    at_least: ClassVar[dict[str, float]] = {
        **dict.fromkeys(("batch_size", "steps_per_epoch", "n_step", "action_chunk", "max_episode_steps"), 1),
        **dict.fromkeys(("collect_steps", "collect_workers"), 1),
        "action_clip_eps": 0,
    }
    at_most: ClassVar[dict[str, float]] = {"action_clip_eps": 0.5}

    def __init__(
        self,
        dataset: str,
        view: str | None = None,
        batch_size: int = 256,
        steps_per_epoch: int = 1000,
        terminals: Terminals | None = None,
        reward_transform: RewardTransform = "none",
        reward_shift: float = 0.0,
        reward_scale: float = 1.0,
        normalize_observations: ObservationNormalization = "none",
        n_step: int = 1,
        discount: float = 0.99,
        action_low: ActionBound = None,
        action_high: ActionBound = None,
        scales: Literal["checkpoint", "dataset"] = "checkpoint",
        action_clip_eps: float = 0.0,
        action_chunk: int = 1,
        collect_steps: int | None = None,
        collect_seed: int = 0,
        collect_workers: int | None = None,
        download: bool = False,
        environment: str | None = None,
        environment_kwargs: dict[str, Any] | None = None,
        max_episode_steps: int | None = None,
        mixture: dict[str, float] | None = None,
        validation: str | None = None,
        best_share: float = 1.0,
        keep_time_limits: bool = False,
        cache: bool = True,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.save_hyperparameters()
        make_plain(self.hparams)
        check_bounds("data", self.hparams, self)
        if n_step < action_chunk:
            raise UserError(
                f"data.n_step ({n_step}) must be at least data.action_chunk ({action_chunk}), which runs unobserved"
            )
        check_share(best_share, mixture)
        self.dataset = dataset
        self._probabilities = mixture_probabilities(dataset, mixture or {})
        self._arrays: Mapping[str, Any] | None = None
        self._position = 0
        self._loader: TransitionLoader | None = None
        self._trajectories: Trajectories | None = None
        self._replay: dict[str, Any] = {}
        self._ready = self._tried = False

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, Any], name: str = "arrays", **options: Any) -> "OfflineDataModule":
        """Return a data module over arrays in memory.

        Args:
            arrays: Arrays by name; ``edp_lightning/data/sources/arrays.py`` tells their names and shapes.
            name: Names the set in results.
            options: Further arguments of the class.
        """
        module = cls(name, **options)
        module._arrays = arrays
        return module

    observation_dim: int
    action_dim: int
    table: TransitionTable
    facts: TableFacts
    validation_table: TransitionTable | None
    observation_mean: Tensor
    observation_std: Tensor
    action_low: Tensor
    action_high: Tensor
    environment: "EvaluationEnvironment | None"
    no_environment: str
    view: "ObservationView"
    recipe: TableRecipe
    reward_map: RewardMap
    reward_mismatch: str
    card: DataCard
    dataset_info: dict[str, Any]

    def prepare_data(self) -> None:
        """Collect or download a missing set, where that was asked for; otherwise say how to get it."""
        from edp_lightning.data.sources.obtaining import collect_or_obtain
        from edp_lightning.data.sources.opening import obtain

        h: Any = self.hparams
        if self._arrays is None:
            workers = h.collect_workers or torch.get_num_threads()  # the share of the machine that this process was given
            collect_or_obtain(self.dataset, h.download, h.collect_steps, h.collect_seed, workers)
        for name in (*(h.mixture or {}), *([h.validation] if h.validation else ())):
            obtain(name, h.download)

    def setup(self, stage: str) -> None:
        """Read the set and try its environment, once on every rank; ``predict`` needs no environment."""
        if not self._ready:
            self._read(stage)
        if stage != "predict" and not self._tried:
            self.try_environment()
            self._tried = True

    def try_environment(self) -> str:
        """Play one step in the evaluation's environment and return what was found, in words; nothing without one.

        Raises:
            UserError: If an evaluation cannot work.
        """
        if self.environment is None:
            return ""
        from edp_lightning.environments.trial import try_out

        with untouched_streams():
            return try_out(self.environment, self.observation_dim, self.action_dim)

    def _read(self, stage: str) -> None:
        from edp_lightning.data.held_out import held_out_table
        from edp_lightning.data.sources.opening import open_source

        h: Any = self.hparams
        opened = decide(self.dataset, self._open(), h)
        self.view, self.recipe = opened.view, opened.recipe
        self.no_environment, self.reward_mismatch = opened.no_environment, opened.reward_mismatch
        table, self.facts = self._table(opened.source, self.view, self.recipe, h.best_share)
        self.reward_map = RewardMap(*self.facts.reward_map)
        self.validation_table = None
        if h.validation:
            held_out = open_source(h.validation, h.keep_time_limits)
            own_box = h.action_low is None and h.action_high is None
            trained_on = table, opened.source.spec, own_box
            self.validation_table = held_out_table(
                held_out, self.recipe, self.reward_map, *trained_on, lambda other, by: self._table(other, self.view, by)[0]
            )
        self.observation_dim, self.action_dim = table.observation_dim, table.action_dim
        if opened.environment is not None:
            opened = replace(opened, environment=opened.environment.limited_by_data(self.facts.longest_recorded))
        self.environment = opened.environment
        self.observation_mean, self.observation_std = observation_statistics(self.facts, h.normalize_observations)
        bounds = opened.low, opened.high
        self.action_low, self.action_high = (torch.from_numpy(bound).repeat(h.action_chunk) for bound in bounds)
        held_out_rows = None if self.validation_table is None else len(self.validation_table)
        self.card = card_of(self.dataset, opened, h, self.facts, self._probabilities, held_out_rows)
        self.dataset_info = {
            "id": self.dataset,
            "origin": opened.source.origin,
            "algorithm": opened.source.algorithm,
            "view": self.view.name,
            "terminals": self.recipe.terminals,
            "mixture": dict(h.mixture or {}),
            "episodes": self.facts.episodes,
            "steps": self.facts.rows,
        }
        device = self.trainer.strategy.root_device if self.trainer is not None else torch.device("cpu")
        self.table = table.to(device)
        self._ready = True
        if stage == "fit":
            rank_zero_only(self.card.print)()
            tell_losses(self.dataset, self.facts)

    def _open(self) -> "Source":
        from edp_lightning.data.sources.arrays import array_source
        from edp_lightning.data.sources.mixture import MixedSource
        from edp_lightning.data.sources.opening import open_source

        h: Any = self.hparams
        first = (
            open_source(self.dataset, h.keep_time_limits) if self._arrays is None else array_source(self.dataset, self._arrays)
        )
        if not h.mixture:
            return first
        own_box = h.action_low is None, h.action_high is None
        return MixedSource((first, *(open_source(name, h.keep_time_limits) for name in h.mixture)), own_box)

    def _table(
        self, source: "Source", view: "ObservationView", recipe: TableRecipe, share: float = 1
    ) -> tuple[TransitionTable, TableFacts]:
        from edp_lightning.data.tables.source_table import table_of

        return table_of(source, view, recipe, self.hparams["keep_time_limits"], self.hparams["cache"], share)

    def episodes(self) -> Iterator[Episode]:
        """Yield the episodes with the rewards and ends that training sees, rewards before their transformation."""
        return (labelled(stored, self.recipe) for stored in self._open().episodes(self.view))

    @property
    def transitions(self) -> Batch:
        """Views of all rows, field by field."""
        return self.table.columns

    def train_dataloader(self) -> TransitionLoader:
        """Return the endless loader; in a run, gradient step k uses batch k of its stream, whatever happened before."""
        rank, world_size = (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        h: Any = self.hparams
        if world_size > 1:
            rank_zero_info(
                f"each of {world_size} ranks draws {h.batch_size} rows: {h.batch_size * world_size} per gradient step"
            )
        parts = list(zip(self.facts.parts, self._probabilities, strict=True)) if h.mixture else None
        options: dict[str, Any] = {
            "table": self.table,
            "batch_size": h.batch_size,
            "steps_per_epoch": h.steps_per_epoch,
            "seed": h.seed,
            "position": self._position,
            "rank": rank,
            "world_size": world_size,
            "parts": parts,
            **self._served(),
            **self._replay,
        }
        self._loader = ReplayLoader(**options) if self._replay else TransitionLoader(**options)
        return self._loader

    def complete_batches(self, buffer: ReplayBuffer | None, rows: int = 0) -> None:
        """Let loaders that are made from now on take so many rows of every batch from a buffer; all from the table without."""
        self._replay = {} if buffer is None else {"buffer": buffer, "buffer_rows": rows}

    def _served(self) -> dict[str, Any]:
        """Return where the trainer's run is in the stream, what of it is served how and where; nothing without a trainer."""
        trainer = self.trainer
        if trainer is None:
            return {}
        return {
            "start": partial(getattr, trainer, "global_step"),
            "cycle": repeated_batches(trainer.overfit_batches),  # type: ignore[attr-defined]
            "device": trainer.strategy.root_device,
            "gather": self._gather(trainer.lightning_module),
        }

    def _gather(self, module: Any) -> Callable[[Tensor, torch.device | None], AnyBatch]:
        """Return what makes batches of rows, as a module learns from them."""
        length = getattr(module, "context_length", None)
        if length is not None:
            return self.trajectories().windows(length)
        return self.table.gather_with_successors if getattr(module, "uses_next_action", False) else self.table.gather

    def trajectories(self) -> Trajectories:
        """Return the trajectories in the table, for methods that learn from windows of them; see ``check_single_steps``."""
        check_single_steps(self.hparams)
        if self._trajectories is None:
            self._trajectories = Trajectories(self.table, self.facts.episode_rows)
        return self._trajectories

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Return the batch on ``device``. Training rows are there already; Lightning would look at each of their fields."""
        if isinstance(batch, (Batch, SuccessorBatch, WindowBatch)) and batch.action.device == device:
            return batch
        return super().transfer_batch_to_device(batch, device, dataloader_idx)

    def batch_of_step(self, step: int) -> AnyBatch:
        """Return the rows that this rank used in a gradient step of this run, counted from 0."""
        assert self._loader is not None
        return self._loader.batch(step)

    def val_dataloader(self) -> OneBatch:
        """Return a single empty batch: evaluation happens in the environment, but Lightning's hooks need a loader."""
        return OneBatch()

    def test_dataloader(self) -> OneBatch:
        """Return a single empty batch, as for validation."""
        return OneBatch()

    def predict_dataloader(self) -> DataLoader[Tensor]:
        """Return the dataset's observations in order, for ``predict``."""
        return DataLoader(cast(Dataset[Tensor], self.transitions.observation), batch_size=self.hparams["batch_size"])

    def state_dict(self) -> dict[str, Any]:
        """Return how many batches were drawn, what became of rewards, and through which view observations were seen."""
        drawn = {"position": self._position if self._loader is None else self._loader.position}
        if not self._ready:
            return drawn
        return drawn | {"reward_map": list(self.reward_map), "view": [self.view.name, *self.view.keys]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Continue after that many batches; say if rewards are in other units than the checkpoint's."""
        self._position = int(state_dict["position"])
        saved = state_dict.get("reward_map")
        if saved is not None and self._ready and not np.allclose(saved, self.reward_map, rtol=1e-5):
            rank_zero_info(
                f"rewards of {self.dataset} become {self.reward_map}, those the checkpoint was trained on became "
                f"{RewardMap(*saved)}: its critics speak of other units at first; data.reward_transform affine for both "
                "would keep them"
            )
