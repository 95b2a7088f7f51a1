"""Maps errors of the database to errors of the service."""

from __future__ import annotations

import re

from sqlalchemy.exc import DBAPIError, OperationalError

from inventory.errors import (
    AlreadyReversed,
    DatabaseBusy,
    DatabaseDamaged,
    DatabaseNotMigrated,
    DatabaseNotWritable,
    DatabaseUnavailable,
    DuplicateCategory,
    DuplicateSku,
    IdempotencyInProgress,
    InternalError,
    QueryTooSlow,
    ServiceError,
    StorageFull,
)
from inventory.logs import harmless

# Constraints that concurrent requests can violate, by name. The naming convention in base.py defines the names.
# The services have already rejected what can be detected beforehand.
BY_CONSTRAINT: dict[str, type[ServiceError]] = {
    "uq_categories_name_folded": DuplicateCategory,
    "uq_products_sku_folded": DuplicateSku,
    "uq_transactions_reverses_id": AlreadyReversed,
    "uq_transactions_idempotency_key_client": IdempotencyInProgress,
    "uq_batches_idempotency_key_client": IdempotencyInProgress,
}

# SQLSTATEs, https://www.postgresql.org/docs/current/errcodes-appendix.html. 55P03 lock_not_available,
# 57014 query_canceled (statement_timeout), 40001 serialization_failure, 40P01 deadlock_detected,
# 42P01 undefined_table, 42703 undefined_column, 42883 undefined_function, 53100 disk_full, 53300 too_many_connections,
# 25006 read_only_sql_transaction.
STATEMENT_TIMEOUT = "57014"
BY_SQLSTATE: dict[str, type[ServiceError]] = {
    "55P03": DatabaseBusy,
    STATEMENT_TIMEOUT: DatabaseBusy,
    "40001": DatabaseBusy,
    "40P01": DatabaseBusy,
    "42P01": DatabaseNotMigrated,
    "42703": DatabaseNotMigrated,
    "42883": DatabaseNotMigrated,
    "53100": StorageFull,
    "53300": DatabaseUnavailable,
    "25006": DatabaseNotWritable,
}

# Result codes, https://www.sqlite.org/rescode.html (the primary code is the low byte).
BY_SQLITE_CODE: dict[int, type[ServiceError]] = {
    5: DatabaseBusy,  # SQLITE_BUSY
    6: DatabaseBusy,  # SQLITE_LOCKED
    9: QueryTooSlow,  # SQLITE_INTERRUPT, by the deadline of a read
    8: DatabaseNotWritable,  # SQLITE_READONLY
    10: DatabaseUnavailable,  # SQLITE_IOERR
    11: DatabaseDamaged,  # SQLITE_CORRUPT
    13: StorageFull,  # SQLITE_FULL
    14: DatabaseUnavailable,  # SQLITE_CANTOPEN
    26: DatabaseDamaged,  # SQLITE_NOTADB
}


def constraint_name(error: DBAPIError) -> str | None:
    """Name of the violated constraint. SQLite reports only the columns of a UNIQUE, so the name is derived."""
    diagnostics = getattr(error.orig, "diag", None)
    if diagnostics is not None:
        name: str | None = diagnostics.constraint_name
        return name
    if match := re.search(r"UNIQUE constraint failed: (\w+)\.(\w+(?:, \w+\.\w+)*)", str(error.orig)):
        columns = re.sub(r", \w+\.", "_", match[2])
        return f"uq_{match[1]}_{columns}"
    return None


def summary(error: DBAPIError) -> str:
    """An error of the driver for the log: its class, its SQLSTATE, and its message without the values in it."""
    name, sqlstate = type(error.orig).__name__, getattr(error.orig, "sqlstate", None)
    # A failed connection quotes the server before FATAL, and the database or the role after it.
    quoting = str(error.orig).partition("FATAL:") if is_connection_failure(error, sqlstate) else [str(error.orig)]
    parts = [f"{name} {sqlstate}" if sqlstate else name, "".join(map(harmless, quoting))]
    if violated := constraint_name(error):
        parts.append(f"constraint {violated}")
    return ": ".join(parts)


def is_foreign_key_violation(error: DBAPIError) -> bool:
    """Whether a foreign key was violated. SQLite does not report its name, and pysqlite3 has no code for it."""
    return getattr(error.orig, "sqlstate", None) == "23503" or str(error.orig) == "FOREIGN KEY constraint failed"


def from_database(error: DBAPIError) -> ServiceError:
    """The service error for a database error, by constraint, SQLSTATE or result code."""
    if refusal := BY_CONSTRAINT.get(constraint_name(error) or ""):
        return refusal()
    sqlstate = getattr(error.orig, "sqlstate", None)
    if known := BY_SQLSTATE.get(sqlstate or ""):
        return known()
    result_code = getattr(error.orig, "sqlite_errorcode", None)
    if known := BY_SQLITE_CODE.get((result_code or 0) & 0xFF):
        return known()
    if re.match("no such (table|column)", str(error.orig)):  # SQLite has no result code for these
        return DatabaseNotMigrated()
    if error.connection_invalidated or is_connection_failure(error, sqlstate):
        return DatabaseUnavailable()
    return InternalError()


def is_statement_timeout(error: DBAPIError) -> bool:
    """Whether PostgreSQL cancelled the statement. A write was most likely waiting for a lock: it is DatabaseBusy."""
    return getattr(error.orig, "sqlstate", None) == STATEMENT_TIMEOUT


def is_connection_failure(error: DBAPIError, sqlstate: str | None) -> bool:
    """Class 08 (connection exception), 57P (shutdown), 25P03 (idle timeout), or no response from the server."""
    if sqlstate is None:
        return isinstance(error, OperationalError) and hasattr(error.orig, "diag")
    return sqlstate.startswith(("08", "57P")) or sqlstate == "25P03"
