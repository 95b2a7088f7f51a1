"""The file of an SQLite database: creation with mode 0600, detection of a moved file, and locks for its replacement.

A file that is moved or deleted stays open, and SQLite continues to commit to it. The service therefore records the
identity of the file, and compares it at the beginning and at the end of every transaction.
"""

from __future__ import annotations

import fcntl
import glob
import logging
import os
import re
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import parse_qsl, quote, unquote, urlencode

from inventory.errors import DatabaseMissing, DatabaseMoved

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import URL

logger = logging.getLogger(__name__)

Identity: TypeAlias = tuple[int, int]

WAL, SHARED_MEMORY, JOURNAL = "-wal", "-shm", "-journal"
# A restore renames the old database to NAME.replaced-TIME.
REPLACED = ".replaced-"
# The lock bytes of a database: PENDING, RESERVED and 510 of SHARED
# (https://www.sqlite.org/src/file/src/os.h). A connection in WAL mode holds its SHARED lock until it is closed.
FIRST_LOCK_BYTE = 0x40000000
LOCK_BYTES = 512


class DatabaseInUse(Exception):
    """Another process has the database open."""


def path_of(url: URL) -> Path | None:
    """The file of an SQLite URL; None for an in-memory database."""
    name = url.database or ""
    if "uri" in url.query and name.startswith("file:"):
        name = unquote(re.sub("^file:(//(localhost)?)?", "", name).partition("?")[0])
    if name in {"", ":memory:"} or url.query.get("mode") == "memory":
        return None
    return Path(name).absolute()


def existing(name: str, *, is_uri: bool) -> str:
    """A URI that opens the database but does not create it (https://www.sqlite.org/uri.html)."""
    if not is_uri:
        return f"file:{quote(name)}?mode=rw"
    address, _, query = name.partition("?")
    options = {"mode": "rw"} | dict(parse_qsl(query))
    if options["mode"] == "rwc":
        options["mode"] = "rw"
    return f"{address}?{urlencode(options, quote_via=quote)}"


def with_suffix(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def has_content(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def identity(path: str | Path) -> Identity | None:
    """Device and inode of a file; None if it does not exist or is not accessible."""
    try:
        found = os.stat(path)  # noqa: PTH116 - faster by a third, and called for every transaction
    except OSError:
        return None
    return found.st_dev, found.st_ino


def create(path: Path) -> None:
    """Create an empty database file with mode 0600 if it is missing. SQLite uses the same mode for -wal and -shm.

    Raises DatabaseMissing if a write-ahead log exists without its database, because SQLite would delete the log, or if
    a restore was interrupted after it renamed the database.
    """
    path = path.resolve()
    if path.exists():
        return
    if has_content(with_suffix(path, WAL)):
        raise DatabaseMissing
    if replaced := sorted(path.parent.glob(f"{glob.escape(path.name)}{REPLACED}*Z")):
        raise DatabaseMissing(
            f"The database file does not exist, but a restore has renamed it to {replaced[-1]}. Run the restore again,"
            f" or rename that file and its -wal back. To start with an empty database, move it to another directory."
        )
    with suppress(FileExistsError):  # created by a concurrent migration
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


class WatchedFile:
    """The file that an engine opened first, and the -wal of its open connections.

    Logs once if they are lost, and once if they are back.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.log = ""
        self.identity: Identity | None = None
        self.log_identity: Identity | None = None
        self.connections = 0
        self.is_lost = False
        self.lock = threading.Lock()

    def check(self) -> None:
        """Raise DatabaseMoved unless both are in place."""
        is_lost = self.is_elsewhere()
        if is_lost != self.is_lost:
            self.note()
        if is_lost:
            raise DatabaseMoved

    def is_elsewhere(self) -> bool:
        return identity(self.path) != self.identity or self.log_identity not in {None, identity(self.log)}

    def note(self) -> None:
        """Log a change. Checks again under the lock, because another thread may have logged it."""
        with self.lock:
            is_lost = self.is_elsewhere()
            if is_lost == self.is_lost:
                return
            self.is_lost = is_lost
            if is_lost:
                message = "%s or its -wal was moved, replaced or deleted. %s"
                logger.critical(message, self.path, DatabaseMoved.advice)
            else:
                logger.warning("%s is back in place. Requests are accepted again.", self.path)

    def before_opening(self) -> None:
        """Raise DatabaseMissing or DatabaseMoved if SQLite would open a file other than the first one."""
        if self.connections:
            self.check()
        elif (found := identity(self.path)) is None and self.identity is None:
            raise DatabaseMissing
        elif self.identity not in {None, found}:
            self.note()
            raise DatabaseMoved

    def opened(self) -> None:
        with self.lock:
            if not self.connections:
                self.identity = self.identity or identity(self.path)
                self.log = os.path.realpath(self.path) + WAL
                self.log_identity = identity(self.log)
            self.connections += 1

    def closed(self) -> None:
        """Closing the last connection removes the log; the next connection creates a new one."""
        with self.lock:
            self.connections -= 1
            if not self.connections:
                self.log_identity = None


@contextmanager
def exclusively_locked(path: Path) -> Iterator[None]:
    """Lock the database exclusively. Raises DatabaseInUse if another process has it open.

    Uses SQLite's lock bytes, which works for corrupt files, too. The block must not open the file: closing any other
    descriptor of it would release the locks.
    """
    descriptor = os.open(path, os.O_RDWR)
    try:
        try:
            fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, LOCK_BYTES, FIRST_LOCK_BYTE)
        except (BlockingIOError, PermissionError):
            raise DatabaseInUse from None
        yield
    finally:
        os.close(descriptor)


def is_in_use(path: Path) -> bool:
    """Whether another process has the database open. Do not call it with the database open: it releases locks."""
    try:
        with exclusively_locked(path):
            return False
    except DatabaseInUse:
        return True


@contextmanager
def folder_locked(folder: Path) -> Iterator[int]:
    """Lock a directory against other processes of the service. Yields its descriptor."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


def sync(path: Path) -> None:
    """Flush a file, or the entries of a directory, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
