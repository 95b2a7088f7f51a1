"""Feeds: rows in commit order, so that a poller never misses one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import BigInteger, bindparam, select

from inventory.database.base import fetch_all, fetch_one
from inventory.database.functions import is_after, settled_before
from inventory.database.keyset import pack, unpack
from inventory.database.query import Query
from inventory.errors import InvalidCursor
from inventory.fields import MAX_ID

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement, Select

NOW = "now"
FIRST = (0, 0)


class Entry(NamedTuple):
    """The columns of a row, and the cursor to continue from."""

    columns: Sequence[Any]
    cursor: str


@dataclass(frozen=True)
class Feed:
    """Rows of a statement by position: a transaction ID, not lower than that of the writing transaction, and an id.

    Only positions below the oldest running transaction are returned, because it can still add rows. Rows are therefore
    delayed by the longest write, but never skipped. Cursors contain ``name``, so they are valid for one feed only.
    """

    name: str
    table: Any
    statement: Select[*tuple[Any, ...]]

    @property
    def place(self) -> tuple[ColumnElement[object], ...]:
        """The columns in a cursor: the position and the time of the row."""
        return self.table.xid.label("at_xid"), self.table.id.label("at_id"), self.table.created_at.label("at_time")

    @property
    def settled(self) -> Select[*tuple[Any, ...]]:
        return self.statement.add_columns(*self.place).where(self.table.xid < settled_before())

    @cached_property
    def page(self) -> Query:
        """The rows after a position."""
        start = bindparam("xid", type_=BigInteger), bindparam("id", type_=BigInteger)
        beyond = self.settled.where(is_after(self.table.xid, self.table.id, *start))
        return Query(beyond.order_by(self.table.xid, self.table.id).limit(bindparam("limit", type_=BigInteger)))

    @cached_property
    def newest(self) -> Query:
        return Query(self.settled.order_by(self.table.xid.desc(), self.table.id.desc()).limit(1))

    @cached_property
    def by_id(self) -> Query:
        """The place of a row."""
        return Query(select(*self.place).where(self.table.id == bindparam("id")))

    def read(self, after: str | None, limit: int) -> tuple[list[Entry], str | None]:
        """Rows after a cursor, each with its own cursor, and the cursor to continue from.

        The latter is None if there is no row yet. Raises InvalidCursor.
        """
        if after == NOW:
            newest = fetch_one(self.newest)
            return [], None if newest is None else self.cursor(newest[-3:])
        xid, row_id = FIRST if after is None else self.position(after)
        found = fetch_all(self.page, {"xid": xid, "id": row_id, "limit": limit})
        entries = [Entry(row[:-3], self.cursor(row[-3:])) for row in found]
        return entries, entries[-1].cursor if entries else after

    def cursor(self, place: Sequence[object]) -> str:
        return pack([self.name, *place])

    def position(self, cursor: str) -> tuple[int, int]:
        """Transaction ID and id of the cursor's row. Raises InvalidCursor.

        If the row is missing, the cursor is from another database, or from before a restore of an older backup. To
        continue from it could skip rows.
        """
        match unpack(cursor):
            case [self.name, _, row_id, _] if type(row_id) is int and 0 <= row_id <= MAX_ID:
                place = fetch_one(self.by_id, {"id": row_id})
                if place is not None and self.cursor(place) == cursor:
                    return place[0], place[1]
        raise InvalidCursor
