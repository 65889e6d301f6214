"""Figure 1 of the slides on arXiv 2402.04080: states of datasets by t-SNE, coloured by the return of their trajectory."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edp_lightning.data.sources.opening import open_source
from edp_lightning.environments.families import choose_view, family_of
from edp_lightning.errors import UserError
from edp_lightning.figures.drawing import MISSING, check_output, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PERPLEXITY = 30.0
LARGEST_SEED = 2**32 - 1
"""Of scikit-learn."""


@dataclass(frozen=True)
class Embedding:
    """States of one dataset in the plane.

    Attributes:
        dataset: Its name.
        point: Where t-SNE puts the states, shape (states, 2).
        episode_return: Undiscounted return of the trajectory each state is from, as stored, shape (states,).
    """

    dataset: str
    point: NDArray[np.float32]
    episode_return: NDArray[np.float64]


def sample_states(
    dataset: str, count: int, seed: int, view: str | None = None
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """Return random states of a dataset, and the return of each one's trajectory.

    Args:
        dataset: Name of a set on this machine.
        count: Number of states, drawn without replacement; all of a smaller set.
        seed: Seed of the draw, from 0 to 4294967295.
        view: Observation view; the set's default when not given.

    Returns:
        States, shape (states, observation_dim), and undiscounted returns of the stored rewards, shape (states,).

    Raises:
        UserError: If the set is missing or damaged, it has no such view, or the seed is out of range.
    """
    _check_seed(seed)
    if count < 3:
        raise UserError(f"t-SNE needs at least 3 states; got {count}")
    source = open_source(dataset)
    views = source.views or family_of(source.evaluation_spec or source.spec).views
    episodes = list(source.episodes(choose_view(views, view, dataset, source.observation_space)))
    lengths = np.array([len(episode) for episode in episodes])
    returns = np.array([episode.reward.sum(dtype=np.float64) for episode in episodes])
    total = int(lengths.sum())
    rows = np.sort(np.random.default_rng(seed).choice(total, size=min(count, total), replace=False))
    ends = np.cumsum(lengths)
    owner = np.searchsorted(ends, rows, side="right")
    steps = rows - (ends - lengths)[owner]
    states = np.stack([episodes[index].observation[step] for index, step in zip(owner, steps, strict=True)])
    return states, returns[owner]


def embed(states: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    """Return the states in the plane by t-SNE (van der Maaten and Hinton, JMLR 2008), shape (states, 2).

    Dimensions are standardised first: metres and radians per second would otherwise not weigh the same.

    Args:
        states: Shape (states, observation_dim), at least 3 of them.
        seed: Seed of t-SNE, from 0 to 4294967295.

    Raises:
        UserError: If scikit-learn is not installed, there are too few states, or the seed is out of range.
    """
    _check_seed(seed)
    try:
        from sklearn.manifold import TSNE
    except ImportError as error:
        raise UserError(f"{MISSING} ({error})") from error
    if len(states) < 3:
        raise UserError(f"t-SNE needs at least 3 states; got {len(states)}")
    wide = states.astype(np.float64)
    spread = wide.std(axis=0)
    standard = (wide - wide.mean(axis=0)) / np.where(spread > 0, spread, 1.0)
    # Random starts: PCA's would need two dimensions, and the two-step task has one.
    method = TSNE(perplexity=min(PERPLEXITY, (len(states) - 1) / 3), init="random", random_state=seed)
    point: NDArray[np.float32] = method.fit_transform(standard).astype(np.float32)
    return point


def _check_seed(seed: int) -> None:
    if not 0 <= seed <= LARGEST_SEED:
        raise UserError(f"--seed must be from 0 to {LARGEST_SEED}; got {seed}")


def tsne(dataset: str, count: int = 1000, seed: int = 0, view: str | None = None) -> Embedding:
    """Return the embedding of one dataset; the same arguments give the same points. See ``sample_states`` and ``embed``."""
    states, returns = sample_states(dataset, count, seed, view)
    return Embedding(dataset, embed(states, seed), returns)


def draw_tsne(embeddings: list[Embedding]) -> "Figure":
    """Return one panel per dataset with its own colour scale: returns of different tasks have nothing in common."""
    figure, axes = new_figure(len(embeddings), 5.0, 4.6)
    for ax, embedding in zip(axes, embeddings, strict=True):
        # High returns on top: they are few and would be hidden.
        order = np.argsort(embedding.episode_return, kind="stable")
        x, y = embedding.point[order].T
        points = ax.scatter(x, y, c=embedding.episode_return[order], s=8, cmap="viridis", linewidths=0)
        ax.set(title=embedding.dataset, xticks=[], yticks=[])
        figure.colorbar(points, ax=ax, label="return of the trajectory")
    return figure


def draw_datasets(
    datasets: list[str], count: int = 1000, view: str | None = None, seed: int = 0, output: str = "tsne.png"
) -> Path:
    """Draw any number of datasets side by side into a picture.

    Args:
        datasets: Names of sets on this machine.
        count: Random states of each.
        view: Observation view of all sets; each one's default when not given.
        seed: Seed of the states and of t-SNE.
        output: Picture to write.

    Returns:
        Its path.

    Raises:
        UserError: If a set, a view, the output or the extra ``plot`` is not to be had.
    """
    path = check_output(output)
    embeddings = [tsne(name, count, seed, view) for name in datasets]
    draw_tsne(embeddings).savefig(path, dpi=150)
    print(f"{len(embeddings)} datasets, {sum(len(e.point) for e in embeddings)} states: {path}")
    return path
