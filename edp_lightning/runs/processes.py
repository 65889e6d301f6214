"""Worker processes: those that are started afresh read the user's script a second time, and none may outlive its parent."""

import ast
import multiprocessing
import os
import sys
import threading
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import FrameType

from edp_lightning.errors import UserError


def check_script_is_guarded() -> None:
    """Refuse to start worker processes from a script that each of them would run again.

    A process that is started afresh imports the script from which it was started, to find what is defined there. What the
    script does must therefore be under ``if __name__ == "__main__":``. Notebooks and ``python -m edp_lightning`` need nothing.

    Raises:
        UserError: If the line of the script that is being executed is not.
    """
    path = getattr(sys.modules.get("__main__"), "__file__", None)
    line = None if path is None else _line_of(path)
    if path is None or line is None:  # a notebook or shell
        return
    try:
        guarded = is_guarded(Path(path).read_text(), line)
    except (OSError, ValueError, SyntaxError):
        return
    if not guarded:
        raise UserError(
            f"{path}, line {line}: worker processes would run this script again from its beginning. Put what it does under "
            "if __name__ == '__main__':, or do without processes (evaluation.num_workers 0, evaluation.background false, "
            "one worker for collect)"
        )


def is_guarded(script: str, line: int) -> bool:
    """Return whether a line of a script stands under an ``if`` that asks for ``__name__``."""
    for node in ast.walk(ast.parse(script)):
        asks = isinstance(node, ast.If) and any(isinstance(n, ast.Name) and n.id == "__name__" for n in ast.walk(node.test))
        if asks and node.lineno <= line <= (node.end_lineno or node.lineno):  # type: ignore[attr-defined]
            return True
    return False


def end_with_parent() -> None:
    """Let this process end when the one that started it is gone, however that one ended; for processes of a pool.

    They wait for work on a pipe whose other end they hold open themselves, and so never hear that nobody sends any.
    """
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_after, args=(parent,), daemon=True).start()


def _end_after(parent: BaseProcess) -> None:
    parent.join()
    os._exit(1)  # whatever the main thread is at: nobody wants it any more


def _line_of(script: str) -> int | None:
    """Return the line that a script has come to, None if it is not being executed."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == "<module>" and frame.f_globals.get("__name__") == "__main__":
            return frame.f_lineno if Path(frame.f_code.co_filename).resolve() == Path(script).resolve() else None
        frame = frame.f_back
    return None
