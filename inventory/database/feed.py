"""Feeds: rows in commit order, so that a poller never misses one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from sqlalchemy import select, tuple_

from inventory.database.base import db
from inventory.database.functions import settled_before
from inventory.database.keyset import pack, unpack
from inventory.errors import InvalidCursor
from inventory.fields import MAX_ID

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import ColumnElement, Row, Select

NOW = "now"
FIRST = (0, 0)


class Entry(NamedTuple):
    """The columns of a row, and the cursor to continue from."""

    columns: Sequence[Any]
    cursor: str


@dataclass(frozen=True)
class Feed:
    """The rows of a table by position: a transaction ID, not lower than that of the writing transaction, and an id.

    Only positions below the oldest running transaction are returned, because it can still add rows. Rows are therefore
    delayed by the longest write, but never skipped. Cursors contain ``name``, so they are valid for one feed only.
    """

    name: str
    table: Any

    @property
    def place(self) -> tuple[ColumnElement[object], ...]:
        """The columns in a cursor: the position and the time of the row."""
        return self.table.xid.label("at_xid"), self.table.id.label("at_id"), self.table.created_at.label("at_time")

    def read(
        self, statement: Select[*tuple[object, ...]], after: str | None, limit: int
    ) -> tuple[list[Entry], str | None]:
        """Rows of ``statement`` after a cursor, each with its own cursor, and the cursor to continue from.

        The latter is None if there is no row yet. Raises InvalidCursor.
        """
        settled = statement.add_columns(*self.place).where(self.table.xid < settled_before())
        if after == NOW:
            return [], self.last_cursor(settled)
        start = FIRST if after is None else self.position(after)
        beyond = settled.where(tuple_(self.table.xid, self.table.id) > tuple_(*start))
        found = db.session.execute(beyond.order_by(self.table.xid, self.table.id).limit(limit))
        entries = [Entry(row[:-3], self.cursor(row[-3:])) for row in found]
        return entries, entries[-1].cursor if entries else after

    def last_cursor(self, settled: Select[*tuple[object, ...]]) -> str | None:
        newest_first = settled.order_by(self.table.xid.desc(), self.table.id.desc())
        row = db.session.execute(newest_first.limit(1)).one_or_none()
        return None if row is None else self.cursor(row[-3:])

    def cursor(self, place: Sequence[object]) -> str:
        return pack([self.name, *place])

    def position(self, cursor: str) -> tuple[int, int]:
        """Transaction ID and id of the cursor's row. Raises InvalidCursor.

        If the row is missing, the cursor is from another database, or from before a restore of an older backup. To
        continue from it could skip rows.
        """
        match unpack(cursor):
            case [self.name, _, row_id, _] if type(row_id) is int and 0 <= row_id <= MAX_ID:
                row = self.row(row_id)
                if row is not None and self.cursor(row) == cursor:
                    return row.at_xid, row.at_id
        raise InvalidCursor

    def row(self, row_id: int) -> Row[*tuple[object, ...]] | None:
        return db.session.execute(select(*self.place).where(self.table.id == row_id)).one_or_none()
