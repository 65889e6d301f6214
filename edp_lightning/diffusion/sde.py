"""The mean-reverting SDE da = -theta_t a dt + sqrt(2 theta_t) dw on actions in T steps (arXiv 2402.04080, section 3)."""

from edp_lightning.diffusion.process import DiffusionProcess
from edp_lightning.diffusion.schedule import ScheduleName, step_rates


class MeanRevertingSDE(DiffusionProcess):
    """The process with steps th_t = theta_t dt.

    They are computed on the CPU in float64 and moved: the same bits on every device.

    Args:
        num_steps: Number of diffusion steps T.
        schedule: Shape of theta_t.
    """

    def __init__(self, num_steps: int = 5, schedule: ScheduleName = "cosine") -> None:
        theta, dt = step_rates(schedule, num_steps)
        super().__init__(theta * dt)
        self.dt = dt
