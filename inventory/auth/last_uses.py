"""When keys were last used: noted by requests, written by a thread of its own, so that no request waits for it."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from threading import Lock, Timer
from typing import TYPE_CHECKING

from sqlalchemy import bindparam, or_, update
from sqlalchemy.exc import DBAPIError
from sqlalchemy.exc import TimeoutError as PoolTimeout

from inventory.database.base import db
from inventory.database.engines import without_waiting
from inventory.errors import ServiceError
from inventory.models.api_key import ApiKey

if TYPE_CHECKING:
    from flask import Flask

# The time that is stored may be this old. So few writes are enough.
EXACT_TO = timedelta(minutes=5)
WRITE_AFTER_SECONDS = 10
STORE = (
    update(ApiKey)
    .where(ApiKey.id == bindparam("key_id"))
    .where(or_(ApiKey.last_used_at.is_(None), ApiKey.last_used_at < bindparam("used_at")))
    .values(last_used_at=bindparam("used_at"))
)

logger = logging.getLogger(__name__)


class LastUses:
    def __init__(self, app: Flask) -> None:
        self.app = app
        self.lock = Lock()
        self.noted: dict[str, datetime] = {}

    def note(self, key_id: str, last_used_at: datetime | None) -> None:
        """Note that a key is used, unless a recent use is stored. ``last_used_at`` is the stored one."""
        now = datetime.now(UTC)
        if last_used_at is not None and last_used_at > now - EXACT_TO:
            return
        with self.lock:
            is_first = not self.noted
            self.noted[key_id] = now
        if is_first:
            timer = Timer(WRITE_AFTER_SECONDS, self.write)
            timer.daemon = True
            timer.start()

    def write(self) -> None:
        """Store what was noted. If another writer has the lock, or the database fails, the next use is noted again."""
        with self.lock:
            noted, self.noted = self.noted, {}
        rows = [{"key_id": key_id, "used_at": used_at} for key_id, used_at in noted.items()]
        try:
            with self.app.app_context(), db.engine.connect() as connection, without_waiting(connection):
                connection.execute(STORE, rows)
        except (ServiceError, DBAPIError, PoolTimeout) as error:
            logger.info("The last use of keys was not stored: %s", type(error).__name__)
