"""Episodes that outlast the calls: turns, restarts, and going on after an interruption."""

import copy

import numpy as np
import pytest
import torch

from edp_lightning.environments.families import ObservationView
from edp_lightning.environments.workers import LocalEnvironments
from edp_lightning.environments.wrappers import FlatObservation
from edp_lightning.errors import UserError
from edp_lightning.evaluation.collector import Collector
from edp_lightning.evaluation.pace import Pace
from tests.situations.environments import OddEnv


class Drifting(OddEnv):
    """Answers differently every time, as a robot does."""

    drift = 0.0

    def _observe(self, *arguments):
        Drifting.drift += 1e-3
        return super()._observe(*arguments) + np.float32(Drifting.drift)


def environments(kind=OddEnv, count=2, **options):
    return LocalEnvironments([FlatObservation(kind(**options), ObservationView("box")) for _ in range(count)])


def act(observation, generators):
    """Depends on what is seen and on chance."""
    noise = torch.stack([torch.rand(2, generator=g) for g in generators])
    return 0.1 * noise + 0.01 * observation[:, :1]


def flat(episodes):
    return [
        (e.seed, e.slot, e.begin, e.over, e.success, np.stack(e.observation).tolist(), np.array(e.action).tolist(), e.reward)
        for e in episodes
    ]


@pytest.mark.parametrize("chunk", [1, 2])
@pytest.mark.parametrize("stop", [1, 4, 6])
def test_what_is_resumed_goes_on_bit_for_bit(chunk, stop):
    def decide(observation, generators):
        return act(observation, generators).repeat(1, chunk)

    whole, first = (Collector(environments(length=5, info="success"), 3, chunk) for _ in range(2))
    for collector, steps in ((whole, 13), (first, stop)):
        collector.begin()
        for _ in range(steps):
            collector.step(decide)
    resumed = Collector(environments(length=5, info="success"), 3, chunk)
    assert resumed.resume(copy.deepcopy(first.state())) == 0
    for _ in range(13 - stop):
        resumed.step(decide)
    assert flat(resumed.episodes) == flat(whole.episodes)
    assert resumed.env_steps == whole.env_steps == 26
    assert [len(e) for e in whole.episodes] == [5, 5, 5, 5, 3, 3]
    assert len({e.seed for e in whole.episodes}) == 6


def test_an_environment_that_answers_otherwise_has_its_episodes_cut():
    first = Collector(environments(Drifting, length=5), 0)
    first.begin()
    for _ in range(7):
        first.step(act)
    before = flat(first.episodes)
    resumed = Collector(environments(Drifting, length=5), 0)
    assert resumed.resume(first.state()) == 2
    assert [len(e) for e in resumed.episodes] == [5, 5, 2, 2, 0, 0]
    assert [e.over for e in resumed.episodes] == [True] * 4 + [False] * 2
    assert flat(resumed.episodes)[:2] == before[:2]
    resumed.step(act)
    assert [len(e) for e in resumed.episodes] == [5, 5, 2, 2, 1, 1]


def test_an_episode_ends_where_it_is_told_to():
    collector = Collector(environments(length=None), 0, is_over=lambda episode: len(episode) == 3)
    collector.begin()
    for _ in range(4):
        collector.step(act)
    assert [(len(e), e.over) for e in collector.episodes] == [(3, True), (3, True), (1, False), (1, False)]
    assert collector.episodes[0].episode().truncated.tolist() == [False, False, True]


def test_an_environment_that_fails_is_named_with_its_reason():
    collector = Collector(environments(fault="later"), 0)
    collector.begin()
    for _ in range(2):
        collector.step(act)
    with pytest.raises(UserError, match=r"after 4 environment steps \(broken joint\).*--ckpt_path last"):
        collector.step(act)


@pytest.mark.parametrize(("ratio", "first", "envs"), [(1, 10, 1), (2, 10, 2), (0.05, 0, 1), (0.3, 4, 4), (2.5, 20, 4)])
def test_the_pace_is_kept_by_counting(ratio, first, envs):
    """Against a loop that saves up the turns one by one."""
    pace = Pace(100, first, ratio, envs)
    pace.check()
    hundredths, played, step = round(100 * first), 0, 0
    while True:
        while played + envs <= 100 and 100 * (played + envs) <= hundredths:
            played += envs
        assert pace.due(step) == played, step
        if played == 100:
            break
        hundredths += round(100 * ratio)
        step += 1
    assert pace.gradient_steps == step


@pytest.mark.parametrize(
    ("pace", "message"),
    [
        (Pace(10, 10, 1, 1), "online.env_steps 10 must be more than online.first_env_steps 10"),
        (Pace(10, 4, 1, 4), "online.env_steps 10 must be a multiple of online.num_envs 4"),
        (Pace(12, 6, 1, 4), "online.first_env_steps 6 must be a multiple"),
        (Pace(10, 5, 0, 1), "online.env_steps_per_gradient_step must be above 0; got 0"),
        (Pace(10, -1, 1, 1), "online.first_env_steps must be at least 0"),
        (Pace(10, 5, 1, 0), "online.num_envs must be at least 1"),
    ],
)
def test_turns_that_do_not_come_out_even_are_refused(pace, message):
    with pytest.raises(UserError, match=message):
        pace.check()
