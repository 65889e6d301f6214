"""Plays a policy that goes on learning: episodes outlast the calls, and go on after a resume where they were."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from edp_lightning.data.collected import CollectedEpisode, pack, unpack
from edp_lightning.environments.workers import Answer, Command, Environments
from edp_lightning.errors import UserError
from edp_lightning.evaluation.rollout import Act
from edp_lightning.runs.rng import stream_seed

Floats = NDArray[np.float32]


class Collector:
    """Steps all environments together, each through one episode after the other.

    Everything random depends on the seed and on counts: episode i of the run is reset with a seed of its own, and the decision
    of an environment at a step has a generator of its own. An episode under way is brought back by its seed and its actions.

    Args:
        envs: The environments; each takes one action per step.
        seed: Seed of the run.
        chunk: Actions per decision, played one after the other.
        is_over: Says after a step whether an episode that its environment would go on with ends there.
    """

    def __init__(
        self, envs: Environments, seed: int, chunk: int = 1, is_over: Callable[[CollectedEpisode], bool] | None = None
    ) -> None:
        self._envs = envs
        self._seed = seed
        self._chunk = chunk
        self._is_over = is_over
        self.episodes: list[CollectedEpisode] = []
        self._running: list[CollectedEpisode] = []
        self._decided: dict[int, Floats] = {}  # what is left of each environment's last chunk, shape (actions, action_dim)
        self.time = 0

    @property
    def env_steps(self) -> int:
        """Environment steps so far, of all environments together."""
        return self.time * len(self._envs)

    def begin(self) -> None:
        """Start an episode in every environment."""
        self._running = [self._new(slot) for slot in range(len(self._envs))]
        for slot, answer in self._advance({slot: e.seed for slot, e in enumerate(self._running)}).items():
            self._running[slot].observation.append(answer.observation.copy())

    def step(self, act: Act) -> list[CollectedEpisode]:
        """Take one step in every environment; return the episodes it belongs to, in the order of the environments.

        Args:
            act: The policy; called with those environments that have no action left to play.
        """
        self._decide(act)
        commands = {slot: self._decided[slot][0] for slot in range(len(self._envs))}
        answers = self._advance(commands)
        self.time += 1
        played = list(self._running)
        for slot, episode in enumerate(played):
            self._add(episode, commands[slot], answers[slot])
            self._decided[slot] = self._decided[slot][1:]
        self._replace([episode for episode in played if episode.over])
        return played

    def _advance(self, commands: Mapping[int, Command]) -> dict[int, Answer]:
        try:
            return self._envs.advance(commands)
        except Exception as error:  # an environment may raise anything
            reason = (str(error).strip() or type(error).__name__).splitlines()[-1]  # another process's traceback ends with it
            raise UserError(
                f"the environment failed online, after {self.env_steps} environment steps ({reason}): mend it and go on with "
                "--ckpt_path last; the checkpoint saved before is intact"
            ) from error

    def _decide(self, act: Act) -> None:
        slots = [slot for slot in range(len(self._envs)) if not len(self._decided.get(slot, ()))]
        if not slots:
            return
        observations = torch.from_numpy(np.stack([self._running[slot].observation[-1] for slot in slots]))
        numbers = [self.env_steps + slot for slot in slots]
        generators = [torch.Generator().manual_seed(stream_seed(self._seed, "online actions", n)) for n in numbers]
        actions = act(observations, generators).cpu().numpy()
        self._decided |= {slot: a.reshape(self._chunk, -1) for slot, a in zip(slots, actions, strict=True)}

    def _add(self, episode: CollectedEpisode, action: Floats, answer: Answer) -> None:
        episode.add(action, answer.observation.copy(), sum(answer.rewards), answer.terminated)
        if answer.success is not None:
            episode.success = bool(episode.success) or answer.success
        episode.over = answer.done or (self._is_over is not None and self._is_over(episode))

    def _new(self, slot: int) -> CollectedEpisode:
        seed = stream_seed(self._seed, "online episodes", len(self.episodes)) & 0x7FFFFFFF
        self.episodes.append(CollectedEpisode(seed, slot, self.time))
        return self.episodes[-1]

    def _replace(self, over: Sequence[CollectedEpisode]) -> None:
        """Start the next episode in the environments whose last one is over."""
        if not over:
            return
        for episode in over:
            self._running[episode.slot] = self._new(episode.slot)
            self._decided.pop(episode.slot, None)
        for slot, answer in self._advance({e.slot: self._running[e.slot].seed for e in over}).items():
            self._running[slot].observation.append(answer.observation.copy())

    def state(self) -> dict[str, Any]:
        """Return everything of which the rest depends, as tensors and numbers."""
        decided = {str(slot): torch.from_numpy(actions.copy()) for slot, actions in self._decided.items() if len(actions)}
        return {"time": self.time, "episodes": pack(self.episodes), "decided": decided}

    def resume(self, state: dict[str, Any]) -> int:
        """Go on from a state: play the actions of the episodes under way again.

        Where an environment answers otherwise than it did, its episode is cut at its last known step and another one begins.

        Returns:
            How many episodes had to be cut.
        """
        self.time = state["time"]
        self.episodes = unpack(state["episodes"])
        self._decided = {int(slot): actions.numpy() for slot, actions in state["decided"].items()}
        under_way = {e.slot: e for e in self.episodes if not e.over}
        self._running = [under_way[slot] for slot in range(len(self._envs))]
        different = self._play_again()
        for episode in different:
            episode.over = True
        self._replace(different)
        return len(different)

    def _play_again(self) -> list[CollectedEpisode]:
        """Bring the environments where they were; return the episodes for which that did not work."""
        same = set(range(len(self._envs)))
        for slot, answer in self._advance({slot: e.seed for slot, e in enumerate(self._running)}).items():
            if not np.array_equal(answer.observation, self._running[slot].observation[0]):
                same.discard(slot)
        for step in range(max(map(len, self._running))):
            going = [slot for slot in sorted(same) if step < len(self._running[slot])]
            for slot, answer in self._advance({slot: self._running[slot].action[step] for slot in going}).items():
                episode = self._running[slot]
                observed = np.array_equal(answer.observation, episode.observation[step + 1])
                if not observed or answer.done or sum(answer.rewards) != episode.reward[step]:
                    same.discard(slot)
        return [episode for slot, episode in enumerate(self._running) if slot not in same]
