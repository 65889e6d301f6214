"""Progress of long work: a bar in a terminal, and a line now and then where output goes to a file."""

import time
from typing import Any

from rich.progress import Progress, TaskID

SECONDS_BETWEEN_LINES = 30.0


class LoggedProgress(Progress):
    """A rich progress display that also tells a log how far it is: rich itself writes nothing there until the end."""

    def __init__(self, *columns: Any, **options: Any) -> None:
        super().__init__(*columns, **options)
        self._told = time.monotonic()

    def advance(self, task_id: TaskID, advance: float = 1) -> None:
        """Advance a task, and tell so if that is due."""
        super().advance(task_id, advance)
        if self.console.is_terminal or time.monotonic() < self._told + SECONDS_BETWEEN_LINES:
            return
        self._told = time.monotonic()
        task = self._tasks[task_id]
        total = "" if task.total is None else f" of {task.total:g}"
        self.console.print(f"{task.description}: {task.completed:g}{total}", soft_wrap=True, highlight=False)
