"""Backup and restore of an SQLite database.

A copy is verified, its file and its ledger, before it gets its final name.
"""

from __future__ import annotations

import os
import tempfile
import time
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy.exc import DBAPIError

from inventory.database import engines, revisions, sqlite
from inventory.database.sqlite_file import (
    JOURNAL,
    REPLACED,
    SHARED_MEMORY,
    WAL,
    DatabaseInUse,
    exclusively_locked,
    folder_locked,
    has_content,
    sync,
    with_suffix,
)
from inventory.errors import DatabaseMissing
from inventory.transactions import verification

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sqlalchemy import Engine


class BackupError(Exception):
    """The backup or restore failed. The message says why and what to do."""


@dataclass(frozen=True)
class Contents:
    """Contents of a verified copy."""

    products: int
    transactions: int
    revision: str


@dataclass(frozen=True)
class Report:
    file: str
    bytes: int
    products: int
    transactions: int
    revision: str
    seconds: float


@dataclass(frozen=True)
class RestoreReport(Report):
    """``replaced`` is the new name of the old file, which keeps its -wal; null if there was no file."""

    replaced: str | None
    needs_upgrade: bool


def back_up(database: Path, target: Path, known_revisions: Sequence[str], *, overwrite: bool) -> Report:
    """Write a copy of a snapshot of the database; writers can continue. Raises BackupError and DatabaseDamaged."""
    started = time.monotonic()
    check_target(database, target, overwrite=overwrite)
    sqlite.check_after_unclean_stop(database)
    with temporary_copy(target) as copy:
        with reading(database), closing(sqlite.connect(database, mode="rw")) as source:
            source.execute("VACUUM INTO ?", [str(copy)])
        contents = check(copy, known_revisions)
        copy.rename(target)
        sync(target.parent)
    return Report(**summary(target, contents, started))


def restore(source: Path, database: Path, known_revisions: Sequence[str]) -> RestoreReport:
    """Replace the database, which no process may have open, with a copy. Keeps the old file. Raises BackupError."""
    started = time.monotonic()
    if database.exists() and source.samefile(database):
        raise BackupError(f"{source} is the database itself.")
    with exclusive_access(database), temporary_copy(database) as copy:
        copy_pages(source, copy)
        contents = check(copy, known_revisions)
        copy_owner(copy, database)
        old_name = with_suffix(database, f"{REPLACED}{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}")
        with folder_locked(database.parent), naming(old_name):
            for _step in replace_steps(copy, database, old_name):
                sync(database.parent)
    return RestoreReport(
        **summary(database, contents, started),
        replaced=str(old_name) if old_name.exists() else None,
        needs_upgrade=contents.revision != known_revisions[0],
    )


def summary(file: Path, contents: Contents, started: float) -> dict[str, Any]:
    seconds = round(time.monotonic() - started, 2)
    return {"file": str(file), "bytes": file.stat().st_size} | asdict(contents) | {"seconds": seconds}


def check_target(database: Path, target: Path, *, overwrite: bool) -> None:
    if not database.exists():
        raise DatabaseMissing
    if target in {with_suffix(database, suffix) for suffix in ("", WAL, SHARED_MEMORY, JOURNAL)} or (
        target.exists() and target.samefile(database)
    ):
        raise BackupError(f"{target} is a file of the database itself. Choose another name.")
    if target.exists() and not overwrite:
        raise BackupError(f"{target} already exists. Choose another name, or overwrite it with --force.")
    for suffix in (WAL, JOURNAL):
        if has_content(with_suffix(target, suffix)):
            raise BackupError(f"{with_suffix(target, suffix)} belongs to another database. Choose another name.")


@contextmanager
def temporary_copy(target: Path) -> Iterator[Path]:
    """An empty file next to the target, with mode 0600, that is removed at the end if it still exists."""
    try:
        descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    except OSError as error:
        raise BackupError(f"Cannot write in {target.parent}: {error.strerror}.") from None
    os.close(descriptor)
    copy = Path(name)
    try:
        yield copy
    finally:
        for suffix in ("", WAL, SHARED_MEMORY, JOURNAL):
            with_suffix(copy, suffix).unlink(missing_ok=True)


@contextmanager
def reading(file: Path) -> Iterator[None]:
    try:
        yield
    except sqlite.driver.Error as error:
        raise BackupError(f"Cannot copy {file}: {error}.") from None


def copy_pages(source: Path, copy: Path) -> None:
    """Copy all pages unchanged, including those in a -wal, so that corruption is detected and not repaired.

    A file without a log is opened as immutable, so that its directory need not be writable.
    """
    has_log = any(has_content(with_suffix(source, suffix)) for suffix in (WAL, JOURNAL))
    options = {"mode": "ro"} if has_log else {"mode": "ro", "immutable": "1"}
    with (
        reading(source),
        closing(sqlite.connect(source, **options)) as origin,
        closing(sqlite.connect(copy, mode="rw")) as destination,
    ):
        origin.backup(destination)


def check(copy: Path, known_revisions: Sequence[str]) -> Contents:
    """Verify the file and the ledger of the copy, and flush it to disk. Raises BackupError."""
    engine = engines.engine_of(copy)
    try:
        revision = check_revision(engine, known_revisions)
        verdict = check_ledger(engine)
    except DBAPIError as error:
        raise BackupError(f"Verification of the copy failed: {error.orig}.") from None
    finally:
        engine.dispose()
    sync(copy)
    return Contents(verdict.products, verdict.transactions, revision)


def check_revision(engine: Engine, known_revisions: Sequence[str]) -> str:
    with engine.connect() as connection:
        revision = revisions.current(connection)
    if revision is None:
        raise BackupError("The file is not a database of this service. Check the name.")
    if revision not in known_revisions:
        raise BackupError(f"The copy has the unknown revision {revision}. Update the service first.")
    return revision


def check_ledger(engine: Engine) -> verification.Verdict:
    problems: list[str] = []
    verdict = verification.verify(None, lambda found: problems.append(found.problem), engine=engine)
    if problems:
        raise BackupError(f"Verification of the copy failed. Findings: {len(problems)}; the first: {problems[0]}.")
    return verdict


@contextmanager
def exclusive_access(database: Path) -> Iterator[None]:
    if not database.exists():
        yield
        return
    try:
        with exclusively_locked(database):
            yield
    except DatabaseInUse:
        raise BackupError(f"{database} is in use. Stop the service and all flask commands first.") from None
    except OSError as error:
        raise BackupError(f"Cannot replace {database}: {error.strerror}.") from None


@contextmanager
def naming(old_name: Path) -> Iterator[None]:
    """Name the old file in the error if replacing the database fails after it was renamed."""
    try:
        yield
    except OSError as error:
        if not old_name.exists():
            raise
        raise BackupError(
            f"Cannot complete the restore: {error.strerror}. The old database is now {old_name}. Run the restore again,"
            " or rename that file and its -wal back."
        ) from None


def copy_owner(copy: Path, database: Path) -> None:
    """Give the copy the owner of the database, or of its directory, because root may run the restore."""
    owner = (database if database.exists() else database.parent).stat()
    with suppress(PermissionError):
        os.chown(copy, owner.st_uid, owner.st_gid)


def replace_steps(copy: Path, database: Path, old_name: Path) -> Iterator[None]:
    """Replace the database with the copy, in steps. An interruption between two steps loses no data.

    The log is linked to a second name that matches ``old_name`` before the file is renamed, and its first name is
    removed afterwards. The old file therefore always has its log, and the new file is never next to the old log. While
    the database file is missing, the service reports it and does not create one.
    """
    for suffix in (WAL, JOURNAL):
        if with_suffix(database, suffix).exists():
            os.link(with_suffix(database, suffix), with_suffix(old_name, suffix))
    yield
    if database.exists():
        database.rename(old_name)
    yield
    for suffix in (WAL, JOURNAL, SHARED_MEMORY):
        with_suffix(database, suffix).unlink(missing_ok=True)
    yield
    copy.rename(database)
    yield
