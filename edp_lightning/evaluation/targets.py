"""Evaluations of policies that can be asked for a return: each target in episodes of its own, one of which counts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from edp_lightning.evaluation.metrics import evaluation_scores
from edp_lightning.evaluation.results import episode_facts
from edp_lightning.evaluation.rollout import EpisodeResult

Game = tuple[int, float | None]
"""Reset seed of an episode, and what it is to earn; None for policies that cannot be asked."""


def games(seeds: Sequence[int], target_returns: Sequence[float]) -> list[Game]:
    """Return all episodes of an evaluation: each target with each seed."""
    return [(seed, target) for target in target_returns or (None,) for seed in seeds]


@dataclass(frozen=True)
class Judgement:
    """The result of an evaluation.

    Attributes:
        scores: Scores of the target that counts, and under ``score_target_TARGET`` the score of each.
        results: The episodes of the target that counts.
        each: Scores and episodes of every target; empty for policies that cannot be asked.
        counts: The target that counts.
    """

    scores: dict[str, float]
    results: list[EpisodeResult]
    each: Mapping[float, tuple[dict[str, float], list[EpisodeResult]]]
    counts: float | None = None

    def record(self) -> dict[str, Any]:
        """Return what a result file says beside the scores and episodes that count; nothing without targets."""
        if not self.each:
            return {}
        each = [
            {"target_return": target, "scores": scores, "episodes": [episode_facts(result) for result in results]}
            for target, (scores, results) in self.each.items()
        ]
        return {"target_returns": {"counts": self.counts, "each": each}}


def judge(
    device: torch.device,
    environment: Any,
    results: Sequence[EpisodeResult],
    target_returns: Sequence[float],
    counting_target: Callable[[Mapping[float, float]], float],
    rank: int = 0,
    world_size: int = 1,
) -> Judgement:
    """Return the scores of an evaluation. All ranks must call this together.

    Args:
        device: Where the ranks exchange their shares.
        environment: Recipe of the environment.
        results: All episodes of all ranks.
        target_returns: What they were asked to earn; none where policies cannot be asked.
        counting_target: Returns the target that counts, by the score of each.
        rank: This rank.
        world_size: Number of ranks.
    """

    def scores_of(part: list[EpisodeResult]) -> dict[str, float]:
        return evaluation_scores(device, environment, part, part[rank::world_size])

    if not target_returns:
        return Judgement(scores_of(list(results)), list(results), {})
    parts = {target: [result for result in results if result.target_return == target] for target in target_returns}
    each = {target: (scores_of(part), part) for target, part in parts.items()}
    counts = counting_target({target: scores["score"] for target, (scores, _) in each.items()})
    named = {f"score_target_{target:g}": scores["score"] for target, (scores, _) in each.items()}
    return Judgement(each[counts][0] | {"target_return": counts} | named, each[counts][1], each, counts)
