"""What a launcher (torchrun, SLURM, LSF, MPI) says about this process, checked before anybody believes it."""

import importlib.util
import os
from typing import NamedTuple

from edp_lightning.errors import UserError

SLURM_SHELLS = ("bash", "interactive")
"""Names of SLURM jobs that are a shell, not a task that ``srun`` started."""

MPI_SIZES = ("OMPI_COMM_WORLD_SIZE", "MV2_COMM_WORLD_SIZE", "PMI_SIZE")
"""Where Open MPI, MVAPICH, and MPICH with its relatives leave the number of processes."""


class Launch(NamedTuple):
    """Processes that a launcher started together.

    Attributes:
        launcher: Its name.
        variable: The environment variable that says how many processes there are.
        world_size: How many.
        per_node: How many on each node, where the launcher says so.
        nodes: On how many nodes, where the launcher says so.
        one_per_node: Whether these may be the first processes of nodes, each of which starts the others on its node.
    """

    launcher: str
    variable: str
    world_size: int
    per_node: int | None = None
    nodes: int | None = None
    one_per_node: bool = False


def current_launch() -> Launch | None:
    """Return what the launcher of this process says, None without one; by the order in which Lightning looks for them.

    Raises:
        UserError: If a variable is no number or missing, or the launcher needs a package that is not installed.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        _need("torchrun", "RANK", "LOCAL_RANK", "WORLD_SIZE")
        return Launch("torchrun", "WORLD_SIZE", _number("WORLD_SIZE"))
    if "SLURM_NTASKS" in os.environ and os.environ.get("SLURM_JOB_NAME") not in SLURM_SHELLS:
        return _slurm()
    if "JSM_NAMESPACE_SIZE" in os.environ and "LSB_DJOB_RANKFILE" in os.environ:
        _need("jsrun", "JSM_NAMESPACE_RANK", "JSM_NAMESPACE_LOCAL_RANK")
        return Launch("jsrun", "JSM_NAMESPACE_SIZE", _number("JSM_NAMESPACE_SIZE"))
    for variable in MPI_SIZES:
        if variable in os.environ and (size := _number(variable)) > 1:
            if importlib.util.find_spec("mpi4py") is None:
                raise UserError(
                    f"MPI started {size} processes ({variable}) but mpi4py, by which they would find each other, is not "
                    "installed: install it, or start them with torchrun"
                )
            return Launch("MPI", variable, size)
    if "WORLD_SIZE" in os.environ:
        return Launch("a launcher", "WORLD_SIZE", _number("WORLD_SIZE"), one_per_node="LOCAL_RANK" not in os.environ)
    return None


def check_launch(num_devices: int, num_nodes: int) -> None:
    """Refuse a launcher that started another number of processes than the trainer counts on.

    Processes that believe themselves alone would all train into one folder; some that wait for others that nobody started
    would wait for ever.

    Args:
        num_devices: The trainer's devices per node.
        num_nodes: The trainer's nodes.

    Raises:
        UserError: With both numbers.
    """
    launch = current_launch()
    if launch is None:
        return
    expected = [num_devices * num_nodes, *([num_nodes] if launch.one_per_node else [])]
    agrees = launch.world_size in expected
    agrees = agrees and launch.per_node in (None, num_devices) and launch.nodes in (None, num_nodes)
    if not agrees:
        per_node = "" if launch.per_node is None else f", {launch.per_node} per node"
        nodes = "" if launch.nodes is None else f", on {launch.nodes} nodes"
        raise UserError(
            f"{launch.launcher} started {launch.world_size} processes ({launch.variable}{per_node}{nodes}) but trainer.devices "
            f"{num_devices} x trainer.num_nodes {num_nodes} makes {num_devices * num_nodes}: set both to what was started, or "
            f"start as many. Independent runs, each with its own --run_name or seed: unset {launch.variable} for them"
        )


def _slurm() -> Launch:
    size = _number("SLURM_NTASKS")
    if size > 1:
        _need("srun", "SLURM_PROCID", "SLURM_LOCALID", "SLURM_NODEID")
        if "SLURM_NTASKS_PER_NODE" not in os.environ:  # Lightning insists on it
            raise UserError(
                f"SLURM started {size} tasks (SLURM_NTASKS) but does not say how many per node: ask for them with "
                "--ntasks-per-node instead of --ntasks"
            )
    per_node, nodes = (_number(n) if n in os.environ else None for n in ("SLURM_NTASKS_PER_NODE", "SLURM_NNODES"))
    return Launch("SLURM", "SLURM_NTASKS", size, per_node, nodes)


def _need(launcher: str, *variables: str) -> None:
    """Make sure that numbers are there which Lightning reads without looking."""
    for variable in variables:
        if variable not in os.environ:
            raise UserError(f"{launcher} seems to have started this process, but left no {variable} in its environment")
        _number(variable)


def _number(variable: str) -> int:
    try:
        return int(os.environ[variable])
    except ValueError:
        raise UserError(
            f"the environment variable {variable} is {os.environ[variable]!r} where a launcher writes a number: unset it if "
            "there is no launcher"
        ) from None
