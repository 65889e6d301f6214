"""Windows of neighbouring steps, read out of the table of transitions: no row is stored twice."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from edp_lightning.data.tables.table import TransitionTable
from edp_lightning.data.transitions import WindowBatch
from edp_lightning.errors import UserError


class Trajectories:
    """Where the trajectories in a table begin and end, and what is earned from each row on.

    A trajectory ends with its episode, and with a step that ends the task: what is recorded behind a goal that was reached
    belongs to another one. A window begins at a row; rows drawn uniformly are trajectories drawn in proportion to their
    lengths, with a uniform start in each (arXiv 2106.01345, its code).

    Args:
        table: Rows of one step each, episodes one after the other.
        episode_rows: Rows of each episode, in order.

    Attributes:
        first: First row of each row's trajectory, shape (rows,).
        last: Last row of each row's trajectory, shape (rows,).
        return_to_go: Undiscounted sum of rewards from each row to the end of its trajectory, float32, shape (rows,).
        longest: Steps of the longest trajectory.
        largest_return: Return of the best one.
    """

    def __init__(self, table: TransitionTable, episode_rows: Sequence[int]) -> None:
        self._table = table
        columns = table.columns
        reward, ends = columns.reward.double().cpu(), columns.terminated.cpu() > 0
        ends[torch.tensor([rows for rows in episode_rows if rows]).cumsum(0) - 1] = True
        last = ends.nonzero().squeeze(1)
        first = torch.cat([last.new_zeros(1), last[:-1] + 1])
        lengths = last - first + 1
        from_here_on = torch.cat([reward.flip(0).cumsum(0).flip(0), reward.new_zeros(1)])
        self.first, self.last = (edge.repeat_interleave(lengths).to(table.rows.device) for edge in (first, last))
        exact = from_here_on[:-1] - from_here_on[last + 1].repeat_interleave(lengths)
        self.return_to_go = exact.float().to(table.rows.device)
        self.longest = int(lengths.max())
        self.largest_return = float(exact[first].max())

    def windows(self, length: int) -> Callable[[Tensor, torch.device | None], WindowBatch]:
        """Return a function from rows (batch,) on the table's device to the windows of ``length`` steps that begin there.

        Its second argument is the device on which the windows are wanted, the table's if there is none.
        """

        def gather(index: Tensor, device: torch.device | None = None) -> WindowBatch:
            rows = index.unsqueeze(1) + torch.arange(length, device=index.device)
            last = self.last[index].unsqueeze(1)
            real = rows <= last
            rows = torch.minimum(rows, last)
            steps = self._table.gather(rows.flatten(), device)
            timestep, return_to_go = (rows - self.first[rows]) * real, self.return_to_go[rows] * real
            if device is not None:
                timestep, return_to_go, real = (x.to(device, non_blocking=True) for x in (timestep, return_to_go, real))
            observation, action = (
                torch.where(real.unsqueeze(2), field.view(*real.shape, -1), 0.0) for field in (steps.observation, steps.action)
            )
            return WindowBatch(observation, action, return_to_go, timestep, real.float())

        return gather


def check_single_steps(options: Mapping[str, Any]) -> None:
    """Refuse options of a data module by which rows are no single steps, of one set, with the environment's own rewards.

    Raises:
        UserError: Naming the option.
    """
    if options["mixture"]:
        raise UserError(
            "windows of trajectories are drawn from one dataset: leave data.mixture out, or write all episodes to one file"
        )
    for name, what in (("action_chunk", "actions"), ("n_step", "steps")):
        if options[name] > 1:
            raise UserError(f"windows of trajectories hold single {what}: set data.{name} 1; got {options[name]}")
    if options["reward_transform"] != "none":
        raise UserError(
            "returns-to-go are sums of the environment's own rewards: set data.reward_transform none; got "
            f"{options['reward_transform']}"
        )
