"""Closed output pipes, as in ``flask export products | head -1``."""

from __future__ import annotations

import os
import sys
from functools import wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")

# Exit status of a program ended by SIGPIPE. 1 would mean invalid data.
CLOSED_PIPE = 128 + 13


def exit_on_closed_pipe(command: Callable[P, R]) -> Callable[P, R]:
    """End a command without a message if its output pipe is closed."""

    @wraps(command)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            result = command(*args, **kwargs)
            # Short output is still buffered, and would fail when the interpreter exits.
            sys.stdout.flush()
        except BrokenPipeError:
            discard_output()
            sys.exit(CLOSED_PIPE)
        else:
            return result

    return wrapper


def discard_output() -> None:
    """Discard the interpreter's last flush (docs.python.org/3/library/signal.html#note-on-sigpipe)."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
