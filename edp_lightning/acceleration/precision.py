"""Which precision the hidden layers' products have, and what this machine makes of it."""

import time
from functools import cache
from typing import Literal

import torch
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

HiddenPrecision = Literal["float32", "bfloat16", "auto"]

WORTHWHILE = 1.5
"""How many times as fast bfloat16 products must be on a CPU for ``auto`` to take them. Processors that have them are at 2 and
more, those that imitate them below 1: no measurement falls near this line."""

TENSOR_CORES_SINCE = (8, 0)
"""CUDA compute capability from which on tensor cores multiply bfloat16."""


def hidden_dtype(precision: HiddenPrecision, device: torch.device) -> torch.dtype:
    """Return the dtype of hidden layers' products on a device.

    ``auto`` says what it chose; what the user chose is obeyed, with a warning where it is slow. On a CPU it measures (a tenth
    of a second at most). A GPU is asked for its compute capability: a measurement short enough would time launches, and
    might differ between ranks and after a resume. Other devices are taken for slow.

    Args:
        precision: The option of that name.
        device: Where the networks run.
    """
    if precision == "float32":
        return torch.float32
    if device.type == "cpu":
        speedup = bfloat16_speedup(device)
        worthwhile, slow = speedup >= WORTHWHILE, speedup < 1
        reason = f"its products take {1 / speedup:.2g} times as long as float32 ones on this cpu"
    elif device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        worthwhile = capability >= TENSOR_CORES_SINCE
        slow = not worthwhile
        least = ".".join(map(str, TENSOR_CORES_SINCE))
        reason = f"this GPU has compute capability {'.'.join(map(str, capability))}, fast products need {least}"
    else:
        worthwhile, slow, reason = False, False, f"not measured on {device.type}"
    if precision == "auto":
        chosen = torch.bfloat16 if worthwhile else torch.float32
        rank_zero_info(f"model.hidden_precision auto: {str(chosen).removeprefix('torch.')}; bfloat16: {reason}")
        return chosen
    if slow:
        rank_zero_warn(f"model.hidden_precision bfloat16 is slow here: {reason}; auto and float32 are faster")
    return torch.bfloat16


@cache
def bfloat16_speedup(device: torch.device) -> float:
    """Return how many times as fast as in float32 a CPU multiplies matrices in bfloat16; measured once per process."""
    return _seconds(torch.float32, device) / _seconds(torch.bfloat16, device)


def _seconds(dtype: torch.dtype, device: torch.device, width: int = 256, trials: int = 3) -> float:
    """Return the time of a product of square matrices, the least of several trials: others may use the machine too."""
    a = torch.ones(width, width, dtype=dtype, device=device)
    found = []
    for _ in range(1 + trials):  # the first one starts up libraries
        start = time.perf_counter()
        torch.mm(a, a)
        found.append(time.perf_counter() - start)
    return min(found[1:])
