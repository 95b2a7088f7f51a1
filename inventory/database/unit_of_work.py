"""The unit of work: begins, repeats and commits write transactions."""

from __future__ import annotations

import random
import time
from functools import partial, wraps
from typing import TYPE_CHECKING, ParamSpec, TypeVar

from sqlalchemy.exc import DBAPIError

from inventory import activity
from inventory.database import engines, postgresql
from inventory.database.base import begin, db, refuse_transaction, unit_of_work_connection

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
R = TypeVar("R")

ATTEMPTS = 5
# The whole transaction has to be repeated after 40001 serialization_failure, 40P01 deadlock_detected, and a prepared
# statement that a migration has outdated.
REPEATABLE_SQLSTATES = frozenset({"40001", "40P01", postgresql.OUTDATED_PLAN})


def run(
    work: Callable[[], R], *, dry_run: bool = False, one_statement: bool = False, has_one_effect: bool = False
) -> R:
    """Call a function in one write transaction: commit its changes, or roll back if it raises or in a dry run.

    With ``one_statement`` the function changes data with one statement only, which PostgreSQL commits by itself. SQLite
    needs a transaction for it, too.

    The transaction is repeated after a serialization failure, a deadlock, or a connection lost before COMMIT. After a
    connection lost during COMMIT the outcome is unknown, so it is repeated only if it ``has_one_effect`` however often
    it is committed; otherwise the client has to decide.
    """
    commits_itself = one_statement and not dry_run and not engines.is_sqlite(db.engine.url)
    for attempt in range(ATTEMPTS):
        committing = commits_itself
        activity.begin_moves()
        try:
            if commits_itself:
                refuse_transaction()
                result = work()
            else:
                with begin(engines.WRITE):
                    result = work()
                    if dry_run:
                        return result
                    if db.session.registry.has():
                        db.session.flush()
                    committing = True
                    with activity.statement("COMMIT"):
                        unit_of_work_connection().commit()
                engines.check_place(db.engine)
        except DBAPIError as error:
            lost = error.connection_invalidated and (has_one_effect or not committing)
            if attempt + 1 == ATTEMPTS or not (lost or may_be_repeated(error)):
                raise
            activity.note_retry()
            time.sleep(random.uniform(0, 0.01 * 2**attempt))  # noqa: S311
        else:
            activity.commit_moves()
            return result
    raise AssertionError("unreachable")


def unit_of_work(work: Callable[P, R]) -> Callable[P, R]:
    """Make a function run in its own write transaction."""

    @wraps(work)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> R:
        return run(partial(work, *args, **kwargs))

    return wrapper


def may_be_repeated(error: DBAPIError) -> bool:
    return getattr(error.orig, "sqlstate", None) in REPEATABLE_SQLSTATES
