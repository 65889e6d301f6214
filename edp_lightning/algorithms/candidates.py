"""What algorithms share whose policy is a diffusion and whose critics take one of its draws."""

from collections.abc import Sequence

import torch
from torch import Tensor

from edp_lightning.acceleration.compilation import preparation
from edp_lightning.algorithms.offline_algorithm import OfflineAlgorithm
from edp_lightning.networks.ensemble import QEnsemble
from edp_lightning.policies.acting import ActionChooser, Choice, candidate_noise
from edp_lightning.policies.diffusion import DiffusionPolicy


class CandidateChoice(OfflineAlgorithm):
    """Base of algorithms that sample candidates and let critics choose; a subclass calls both methods."""

    chooser: ActionChooser

    def build_chooser(self, fused: bool = True) -> None:
        """Create what chooses, compiled where it pays; at the end of ``build``.

        Args:
            fused: Whether fused passes know the networks, where the processor has them.
        """
        # on a GPU, the form for any number of rows is not measured
        compiled = self.compiled and self.root_device.type == "cpu"
        self.chooser = ActionChooser(preparation(compiled, dynamic=True), self.fused_passes(compiled) if fused else None)

    def choose_among(
        self,
        actor: DiffusionPolicy,
        critic: QEnsemble,
        observation: Tensor,
        generators: Sequence[torch.Generator],
        choice: Choice,
    ) -> Tensor:
        """Return one action in [-1, 1] per normalised observation; all candidates of all rows go through the networks together.

        Args:
            actor: Who draws the candidates.
            critic: Who judges them.
            observation: Normalised observations, shape (batch, observation_dim).
            generators: One CPU generator per row.
            choice: How many candidates there are, and how one is taken.
        """
        noise = candidate_noise(generators, actor.num_draws, choice.num_candidates, self.action_dim, self.device)
        return self.chooser.choose(actor, critic, observation, *noise, choice)
