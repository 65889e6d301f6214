"""Evaluation of a policy in AntMaze: many environments at once against one after the other.

    python benchmarks/evaluation.py             # M = 64 and 8 critics, 50 candidates
    python benchmarks/evaluation.py --quick

Three ways, taken in turns: ``plain`` asks the networks for one environment at a time, in one pass over all critics, as the
released code does; ``one`` uses this package's ``act`` with one environment; ``ours`` is what a run does. ``one`` and ``ours``
must return the same episodes, which is checked. Untrained policies wander, so every episode lasts its full length.
"""

import argparse
import itertools
import os
import statistics
import time

import torch
from torch import Tensor

from edp_lightning.algorithms.entropy_diffusion import EntropyDiffusionPolicy
from edp_lightning.collect.tasks import task_of
from edp_lightning.environments.families import ANTMAZE
from edp_lightning.environments.recipe import EvaluationEnvironment, evaluation_environment
from edp_lightning.environments.workers import Environments, LocalEnvironments, WorkerEnvironments
from edp_lightning.evaluation.rollout import EpisodeResult, rollout
from edp_lightning.networks.ensemble import aggregate_q
from edp_lightning.policies.diffusion import choose_candidate

SEED = 10_000


def environment(steps: int) -> EvaluationEnvironment:
    """Return AntMaze umaze seen through 29 numbers, with a horizon."""
    spec = task_of("antmaze-umaze-diverse").evaluation_spec()
    spec.max_episode_steps = steps
    found = evaluation_environment("edp/antmaze/umaze-diverse-v1", spec, spec, ANTMAZE.views[1])
    assert found is not None
    return found


def plain_act(module: EntropyDiffusionPolicy):  # type: ignore[no-untyped-def]
    """Return ``act`` for one environment in the plain way: all critics in one pass over its candidates."""

    @torch.no_grad()
    def act(observation: Tensor, generators: list[torch.Generator]) -> Tensor:
        count, steps = module.num_candidates, module.actor.sde.num_steps
        normal = torch.randn(steps, count, 8, generator=generators[0]).to(module.device)
        uniform = torch.rand(1, count, generator=generators[0]).to(module.device)
        state = module.normalizer(observation.to(module.device)).repeat_interleave(count, dim=0)
        action = module.actor.sample(state, normal).clamp(-1.0, 1.0)
        values = aggregate_q(module.target_critic(state, action), module.q_aggregation, module.lcb_coef)
        chosen = choose_candidate(values.view(1, count), module.candidate_temperature, uniform)
        return module.action_scaler(action[chosen])

    return act


def timed(envs: Environments, act, seeds: list[int]) -> tuple[float, list[EpisodeResult]]:  # type: ignore[no-untyped-def]
    """Return milliseconds per environment step, and the episodes."""
    start = time.perf_counter()
    results = rollout(envs, act, seeds)
    return (time.perf_counter() - start) / sum(r.length for r in results) * 1e3, results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--episodes", type=int, default=100, help="episodes of ours in one round")
    parser.add_argument("--steps", type=int, default=40, help="steps per episode; a rate does not depend on it")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--eager", dest="compile", action="store_false", help="one and ours without torch.compile")
    options = parser.parse_args()
    critics, precisions, rounds = [64, 8], ["float32", "bfloat16"], options.rounds
    if options.quick:
        options.episodes, options.steps, critics, precisions, rounds = 20, 10, [64], ["float32"], 1
    torch.set_num_threads(options.threads)
    recipe = environment(options.steps)
    seeds = list(range(SEED, SEED + options.episodes))
    few = seeds[: max(2, options.episodes // 25)]
    single = LocalEnvironments([recipe.make()])
    count = min(options.episodes, 50)  # as many as a run has
    workers = options.threads if options.threads > 1 else 0
    many: Environments = (
        WorkerEnvironments(recipe.make, count, workers) if workers else LocalEnvironments([recipe.make() for _ in range(count)])
    )
    print(f"{options.device}, {options.threads} threads, {count} environments in {workers} processes, 50 candidates")
    print(f"{'critics':>7} {'hidden':>9} {'plain':>8} {'one':>8} {'ours':>8}   ms per environment step, medians")
    for number, precision in itertools.product(critics, precisions):
        torch.manual_seed(0)
        module = EntropyDiffusionPolicy(29, 8, num_critics=number, hidden_precision=precision, compile=options.compile)
        module.configure_model()
        module.to(options.device)
        timed(many, module.act, seeds[:count])  # processes started, memory touched, functions compiled
        timed(single, module.act, seeds[:1])
        times: dict[str, list[float]] = {"plain": [], "one": [], "ours": []}
        for _ in range(rounds):
            times["plain"].append(timed(single, plain_act(module), few)[0])
            milliseconds, sequential = timed(single, module.act, few)
            times["one"].append(milliseconds)
            milliseconds, together = timed(many, module.act, seeds)
            times["ours"].append(milliseconds)
            same = together[: len(few)] == sequential
        plain, one, ours = (statistics.median(values) for values in times.values())
        print(f"{number:7} {precision:>9} {plain:8.2f} {one:8.2f} {ours:8.2f}   episodes {'equal' if same else 'DIFFER'}")
        name = f"M{number}_{precision}"
        for label, base in (("plain", plain), ("one_environment", one)):
            ratio = base / ours
            print(f"goal evaluation_{name}_against_{label} {ratio:.1f}x >=8x {'met' if ratio >= 8 else 'missed'}")
        print(f"goal evaluation_{name}_same_episodes {same} True {'met' if same else 'missed'}")
    single.close()
    many.close()


if __name__ == "__main__":
    main()
