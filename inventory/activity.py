"""What is done for one request: its statements, and the movements that it commits.

The database and the ledger add to it, and do not know HTTP. ``web/observability.py`` starts one for each request and
reads it at the end. Nothing is noted outside requests, as on the command line.
"""

from __future__ import annotations

import re
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import lru_cache
from time import perf_counter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# In generated SQL all keywords have capital letters, and all names small ones.
CHANGED = re.compile(r"\b(INSERT INTO|UPDATE|DELETE FROM) ([a-z_]+)")
READ = re.compile(r"\b(?:FROM|JOIN) ([a-z_]+)")
FIRST_WORDS = re.compile(r"\s*([A-Za-z_]+(?: [A-Za-z_]+)?)")
MAX_TIMELINE = 200


class Moved(NamedTuple):
    """Committed movements: one, with its row in the ledger, or all of an import, with its batch."""

    transaction_type: str
    movements: int
    units: int  # without sign
    row: Mapping[str, object]


class Executed(NamedTuple):
    """A statement by name, the ``perf_counter`` at which it began, and its seconds."""

    name: str
    started: float
    seconds: float


@dataclass(slots=True)
class Activity:
    """``id`` is the id of the request."""

    id: str
    statements: int = 0
    seconds: float = 0.0
    rows: int = 0
    # The number and the seconds of the statements, by name.
    by_name: dict[str, tuple[int, float]] = field(default_factory=dict)
    # The first of them in order, if the request is traced.
    timeline: list[Executed] | None = None
    # Those of the transaction that has begun, and those that are committed.
    pending: list[Moved] = field(default_factory=list)
    moved: list[Moved] = field(default_factory=list)
    # How often a transaction was repeated, and whether a file was imported.
    retries: int = 0
    has_imported: bool = False


current: ContextVar[Activity | None] = ContextVar("activity", default=None)


def note_statement(text: str, started: float, rows: int = 0) -> None:
    """Note a statement that began at ``started``, a time of ``perf_counter``."""
    activity = current.get()
    if activity is None:
        return
    seconds = perf_counter() - started
    name = name_of(text)
    count, earlier = activity.by_name.get(name, (0, 0.0))
    activity.by_name[name] = (count + 1, earlier + seconds)
    activity.statements += 1
    activity.seconds += seconds
    activity.rows += rows
    if activity.timeline is not None and len(activity.timeline) < MAX_TIMELINE:
        activity.timeline.append(Executed(name, started, seconds))


def note_rows(rows: int, seconds: float = 0.0) -> None:
    """Note rows that a noted statement returned, and how long it took to fetch them."""
    activity = current.get()
    if activity is not None:
        activity.rows += rows
        activity.seconds += seconds


@contextmanager
def statement(text: str) -> Iterator[None]:
    """Note a statement that the block executes."""
    started = perf_counter()
    try:
        yield
    finally:
        note_statement(text, started)


@lru_cache(maxsize=1_000)
def name_of(text: str) -> str:
    """A name of a statement, without its values: what it changes, or else what it reads."""
    if changed := dict.fromkeys(f"{verb.split()[0]} {table}" for verb, table in CHANGED.findall(text)):
        return ", ".join(changed)
    if tables := dict.fromkeys(READ.findall(text)):
        return f"SELECT {', '.join(tables)}"
    match = FIRST_WORDS.match(text)
    return match[1] if match else "statement"


def note_retry() -> None:
    """Note that a transaction is repeated."""
    activity = current.get()
    if activity is not None:
        activity.retries += 1


def note_imported() -> None:
    """Note that an import is committed, also one that moved nothing."""
    activity = current.get()
    if activity is not None:
        activity.has_imported = True


def begin_moves() -> None:
    """Forget the movements of a transaction that was not committed."""
    activity = current.get()
    if activity is not None:
        activity.pending.clear()


def note_move(moved: Moved) -> None:
    """Note a movement of the transaction that has begun."""
    activity = current.get()
    if activity is not None:
        activity.pending.append(moved)


def note_import(batch_id: str, movements: int, units: int) -> None:
    """Note movements of an import. They become one ``Moved``, because an import can have 100,000 of them."""
    activity = current.get()
    if activity is None or not movements:
        return
    if activity.pending:  # an import records nothing else
        earlier = activity.pending.pop()
        movements, units = earlier.movements + movements, earlier.units + units
    activity.pending.append(Moved("adjustment", movements, units, {"batch_id": batch_id}))


def commit_moves() -> None:
    """Note that the transaction is committed."""
    activity = current.get()
    if activity is not None:
        activity.moved += activity.pending
        activity.pending.clear()
