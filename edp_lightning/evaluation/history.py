"""The scores of a run's evaluations, kept with its checkpoint: which of them counts is decided before, not after."""

from typing import Any

MEAN_OF = 3
"""Evaluations at the end of a run whose mean OGBench's papers report (800k, 900k, 1M steps: FQL, arXiv 2502.02538)."""


class EvaluationHistory:
    """Score by gradient step; an evaluation that is repeated after a resume replaces the one before."""

    def __init__(self) -> None:
        self._scores: dict[int, float] = {}

    def add(self, step: int, score: float) -> None:
        """Add the score of a policy of ``step`` gradient steps."""
        self._scores[step] = score

    def state(self) -> list[list[float]]:
        """Return pairs of step and score, ascending."""
        return [[step, score] for step, score in sorted(self._scores.items())]

    def load(self, state: list[list[float]]) -> None:
        """Go on from what :meth:`state` returned."""
        self._scores = {int(step): float(score) for step, score in state}

    def facts(self) -> dict[str, Any] | None:
        """Return what a result file says of the run's evaluations; None if there were none.

        ``last`` is the last one's score, ``mean_of_last_three`` that of the last three; None with fewer of them.
        """
        pairs = self.state()
        if not pairs:
            return None
        scores = [score for _, score in pairs]
        return {
            "gradient_steps": [int(step) for step, _ in pairs],
            "scores": scores,
            "last": scores[-1],
            "mean_of_last_three": sum(scores[-MEAN_OF:]) / MEAN_OF if len(scores) >= MEAN_OF else None,
        }
