"""Operators of one gradient step as a GPU would be asked for them, counted without one: tensors on the device "meta".

    python benchmarks/operators.py [--quick]

Counts are the same for any number of critics; what they write is for 64 with max-Q. The optimizers' kernels are left out: fused
Adam adds four operators. ``mish_backward`` is one kernel on a GPU and counted here as the twelve it is made of.
"""

import argparse
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

VIEWS = {"view", "t", "transpose", "expand", "slice", "select", "split", "split_with_sizes", "unsqueeze", "squeeze", "detach"}
VIEWS |= {"alias", "_unsafe_view", "as_strided", "permute", "unbind", "lift_fresh", "chunk", "narrow"}
"""Operators that start nothing on a device."""

SYNCHRONISATIONS = {"_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select"}
"""Operators for which the host waits until the device is done."""


class Operators(TorchDispatchMode):
    """Records every operator that is dispatched while it is on.

    Attributes:
        counts: How often each operator ran, by name, views left out.
        results: (name, device type, dtype) of each result.
        written: Bytes of all results, views left out.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()
        self.results: list[tuple[str, str, torch.dtype]] = []
        self.written = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        found = function(*args, **(kwargs or {}))
        name = function.name().removeprefix("aten::").partition(".")[0]
        if name.startswith("prim::"):  # a question, not an operator
            return found
        tensors = [leaf for leaf in tree_leaves(found) if isinstance(leaf, Tensor)]
        if name not in VIEWS:
            self.counts[name] += 1
            self.written += sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        self.results += [(name, tensor.device.type, tensor.dtype) for tensor in tensors]
        return found

    @property
    def synchronisations(self) -> int:
        return sum(self.counts[name] for name in SYNCHRONISATIONS)

    def on(self, device_type: str) -> set[tuple[str, torch.dtype]]:
        """Return operators and dtypes of the results that lie on a kind of device."""
        return {(name, dtype) for name, device, dtype in self.results if device == device_type}


def count_step(precision: str) -> Operators:
    """Return the operators of an eager step of 64 critics with max-Q, without the optimizers' kernels."""
    from benchmarks.step import BACKUP, STEPS_OF_CHAIN, build
    from benchmarks.step_data import ACTION, OBSERVATION, ROWS
    from edp_lightning.algorithms.noise import NoiseSource
    from edp_lightning.algorithms.optimization import apply_gradients, loss_gradients
    from edp_lightning.callbacks.target_update import move_towards
    from edp_lightning.data.transitions import Batch

    module = build(64, BACKUP, precision, False)
    module.configure_model()
    module.to("meta")
    module.prepare_step(compiled=False)
    noise = NoiseSource(0, STEPS_OF_CHAIN, ACTION, BACKUP, 1, torch.device("cpu")).draw(0, ROWS)
    noise = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), noise)
    shapes = [(ROWS, OBSERVATION), (ROWS, ACTION), (ROWS,), (ROWS, OBSERVATION), (ROWS,), (ROWS,)]
    batch = Batch(*(torch.empty(shape, device="meta") for shape in shapes))
    optimizer = SimpleNamespace(step=lambda: None)
    with Operators() as operators:
        critic = module.objectives.critic_terms(batch, noise)
        apply_gradients(optimizer, module.critic, critic.gradients, 4.0)
        loss = module.actor_loss(module.objectives.actor_terms(batch, noise))
        apply_gradients(optimizer, module.actor, loss_gradients(loss, module.actor), 4.0)
        for target, online in ((module.target_critic, module.critic), (module.ema_actor, module.actor)):
            move_towards(list(target.parameters()), list(online.parameters()), 0.005)
    return operators


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="the same: it takes seconds")
    parser.parse_args()
    print(f"torch {torch.__version__}\n| hidden layers | operators | waits for the device | GB written |\n|---|---|---|---|")
    waits = 0
    for precision in ("float32", "bfloat16"):
        found = count_step(precision)
        waits += found.synchronisations
        print(f"| {precision} | {sum(found.counts.values())} | {found.synchronisations} | {found.written / 1e9:.2f} |")
    print(f"goal operators_waits {waits} 0 {'missed' if waits else 'met'}")


if __name__ == "__main__":
    main()
