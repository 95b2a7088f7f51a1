"""Watches the statements that an application sends to its database, through SQLAlchemy or as a ``Query``."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from unittest import mock

from sqlalchemy import event

from inventory.database import query
from inventory.database.base import engine_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from flask import Flask
    from sqlalchemy import Connection, Engine

# Called with the text of a statement and its parameters.
Watcher = Callable[[str, Any], object]


def ignore(_statement: str, _parameters: Any) -> None:
    pass


@contextmanager
def watched(app: Flask, *, before: Watcher = ignore, after: Watcher = ignore) -> Iterator[None]:
    """Call functions before or after each statement of the application."""
    engine, fetch = engine_of(app), query.fetch

    def fetch_watched(used: Engine, text: str, values: Any, within: Connection | None = None) -> Any:
        if used is not engine:
            return fetch(used, text, values, within)
        before(text, values)
        rows = fetch(used, text, values, within)
        after(text, values)
        return rows

    def listener(watcher: Watcher) -> Callable[..., object]:
        return lambda _connection, _cursor, statement, parameters, *_rest: watcher(statement, parameters)

    listeners = {"before_cursor_execute": listener(before), "after_cursor_execute": listener(after)}
    for name, function in listeners.items():
        event.listen(engine, name, function)
    try:
        with mock.patch.object(query, "fetch", fetch_watched):
            yield
    finally:
        for name, function in listeners.items():
            event.remove(engine, name, function)
