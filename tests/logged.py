"""Captures the lines that the service logs in this process, in the form in which it logs them."""

from __future__ import annotations

import io
import json
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from inventory import logs
from inventory.web import observability

if TYPE_CHECKING:
    from collections.abc import Iterator


class Log:
    """Its clock stands still, unless a test sets ``now``."""

    def __init__(self, form: str = "json") -> None:
        self.stream, self.now = io.StringIO(), 0.0
        limit = logs.RateLimit(clock=lambda: self.now)
        self.handler = logs.handler(form, observability.context, stream=self.stream, limit=limit)

    @property
    def text(self) -> str:
        return self.stream.getvalue()

    def lines(self, message: str | None = None) -> list[dict[str, Any]]:
        """All lines, or those with this message. Each must be a JSON object by itself."""
        found: list[dict[str, Any]] = [json.loads(line) for line in self.text.splitlines()]
        return [line for line in found if message in {None, line["message"]}]

    def one(self, message: str) -> dict[str, Any]:
        (line,) = self.lines(message)
        return line


@contextmanager
def logged(form: str = "json") -> Iterator[Log]:
    log, logger = Log(form), logging.getLogger("inventory")
    level = logger.level
    logger.addHandler(log.handler)
    logger.setLevel(logging.INFO)
    try:
        yield log
    finally:
        logger.setLevel(level)
        logger.removeHandler(log.handler)
