"""The form of the lines that the service logs: JSON, or readable text on a terminal.

gunicorn.conf.py loads this file by its path, because the master process must not import the package. So it imports
only the standard library. ``json`` with ``ensure_ascii`` also escapes the line breaks of Unicode, and lone surrogates.
"""

from __future__ import annotations

import json
import logging
import re
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from threading import Lock
from typing import TextIO

# From the first to the last quotation mark, so that a quotation mark in a quoted value reveals nothing.
QUOTED = re.compile(r"""["'`].*["'`]""", re.DOTALL)
# In text, a value that is not of these characters is quoted.
PLAIN = re.compile(r"[^\s\"'=\\\x00-\x1f\x7f-\uffff]+", re.ASCII)
MAX_MESSAGE = 300
MAX_FRAMES = 30
# Set on an exception that is logged already.
IS_LOGGED = "inventory_is_logged"
SIMILAR_LINES, SIMILAR_SECONDS = 5, 10.0

Fields = Mapping[str, object]
# Returns what each line of the current request has in common.
Context = Callable[[], Fields]

encode = json.JSONEncoder(ensure_ascii=True, separators=(",", ":"), default=str).encode


def no_context() -> Fields:
    return {}


def harmless(text: str) -> str:
    """The first line of the message of an error, without the values that it quotes."""
    lines = QUOTED.sub('"…"', text).splitlines()
    return lines[0][:MAX_MESSAGE] if lines else ""


def named(error: BaseException) -> str:
    message = harmless(str(error))
    name = type(error).__qualname__
    return f"{name}: {message}" if message else name


def traceback_of(error: BaseException) -> str:
    """The traceback of an error and of those that led to it, without the values in their messages."""
    parts: list[str] = []
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        frames = "".join(traceback.format_tb(following.__traceback__, -MAX_FRAMES))
        parts.append(f"Traceback (most recent call last):\n{frames}{named(following)}")
        following = following.__cause__ or (None if following.__suppress_context__ else following.__context__)
    return "\n\nwhich followed from:\n\n".join(parts)


@lru_cache(maxsize=2)
def second_of(seconds: int) -> str:
    """A Unix time in UTC, as ISO 8601. Cached, because many lines have the same."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


class Formatter(logging.Formatter):
    """Joins the parts of a line: those of every line, those of its request, and its own, which are in ``data``."""

    def __init__(self, context: Context = no_context) -> None:
        super().__init__()
        self.context = context

    def parts(self, record: logging.LogRecord) -> dict[str, object]:
        data: Fields = getattr(record, "data", {})
        parts = {**data, **self.context(), **data}  # its own parts come first, and take precedence
        if dropped := getattr(record, "dropped", None):
            parts["dropped"] = dropped
        if record.exc_info and record.exc_info[1]:
            parts["exception"] = traceback_of(record.exc_info[1])
        return parts


class JsonFormatter(Formatter):
    def format(self, record: logging.LogRecord) -> str:
        head = {
            "time": f"{second_of(int(record.created))}.{int(record.msecs):03d}+00:00",
            "level": record.levelname.lower(),
            "logger": record.name,
            "pid": record.process,
            "message": record.getMessage(),
        }
        return encode(head | self.parts(record))


class TextFormatter(Formatter):
    """Readable on a terminal. No text can begin a line or move the cursor, because control characters are escaped."""

    def format(self, record: logging.LogRecord) -> str:
        parts = self.parts(record)
        exception = parts.pop("exception", None)
        moment = datetime.fromtimestamp(record.created, UTC).astimezone().strftime("%H:%M:%S")
        shown = [f"{name}={self.shown(value)}" for name, value in parts.items() if value is not None]
        line = " ".join([moment, f"{record.levelname:<7}", escaped(record.getMessage()), *shown])
        frames = [f"    | {escaped(frame)}" for frame in str(exception or "").splitlines()]
        return "\n".join([line, *frames])

    def shown(self, value: object) -> str:
        text = str(value)
        return text if PLAIN.fullmatch(text) else encode(value)


def escaped(text: str) -> str:
    return "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text)


class RateLimit(logging.Filter):
    """Passes some lines of each ``kind`` in an interval. The first line after it says how many were ``dropped``.

    For what a stranger, or a dead database, can cause with every request. Lines without a kind always pass.
    """

    def __init__(
        self,
        lines: int = SIMILAR_LINES,
        seconds: float = SIMILAR_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__()
        self.lines, self.seconds, self.clock = lines, seconds, clock
        self.end = clock() + seconds
        # The lines of the interval by kind.
        self.counts: dict[str, int] = {}
        self.lock = Lock()

    def filter(self, record: logging.LogRecord) -> bool:
        kind: str | None = getattr(record, "kind", None)
        with self.lock:
            if (now := self.clock()) >= self.end:
                record.dropped = {kind: count - self.lines for kind, count in self.counts.items() if count > self.lines}
                self.end, self.counts = now + self.seconds, {}
            if kind is None:
                return True
            self.counts[kind] = self.counts.get(kind, 0) + 1
            return self.counts[kind] <= self.lines


def formatter(form: str | None, context: Context = no_context) -> Formatter:
    """A formatter for a form: json, text, or None for text on a terminal and json otherwise."""
    is_text = sys.stderr.isatty() if form is None else form == "text"
    return TextFormatter(context) if is_text else JsonFormatter(context)


def handler(
    form: str | None, context: Context = no_context, *, stream: TextIO | None = None, limit: RateLimit | None = None
) -> logging.Handler:
    """A handler that writes to a stream, or to standard error."""
    made = logging.StreamHandler(stream)
    made.setFormatter(formatter(form, context))
    made.addFilter(limit or RateLimit())
    return made


def configure(level: str, form: str | None, context: Context = no_context) -> None:
    """Log everything in this form, in a process that serves."""
    logging.basicConfig(level=level.upper(), handlers=[handler(form, context)], force=True)
    logging.captureWarnings(capture=True)
    # It says how it was set up whenever a command is looked up.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # A line that cannot be written, as on a full disk, must not be followed by a traceback with its arguments.
    logging.raiseExceptions = False
    # No line has the thread or the caller, so they need not be looked up
    # (https://docs.python.org/3/howto/logging.html#optimization).
    logging.logThreads = logging.logMultiprocessing = False
    logging._srcfile = None  # noqa: SLF001


def without_requests(record: logging.LogRecord) -> bool:
    """A filter for gunicorn's lines about a request, which repeat its text."""
    text = str(record.msg)
    if record.exc_info and getattr(record.exc_info[1], IS_LOGGED, False):
        return False
    if text.startswith("Error handling request"):
        record.msg, record.args = "Error handling request", ()
    return not text.startswith("Invalid request from ip=")
