"""Imports products from a CSV file: all rows or none.

An import has two passes, so that other writers wait only while it writes:

1. Without a lock: every row is parsed and validated, then compared with one snapshot of the catalogue. The result is
   a plan, which holds only the changes. A dry run, or a file with errors, ends here.
2. Under the lock: planned products that have changed since the snapshot are compared again, and the plan is written.

Rows and plan are stored on disk to limit memory.
"""

from __future__ import annotations

from itertools import islice
from typing import IO, TYPE_CHECKING, TypeVar

from sqlalchemy.exc import IntegrityError

from inventory import activity
from inventory.caller import require
from inventory.database.base import begin
from inventory.database.engines import SNAPSHOT
from inventory.database.types import fold
from inventory.errors import DuplicateCategory
from inventory.import_export.apply import apply_changes, outcome_of
from inventory.import_export.outcome import Outcome
from inventory.import_export.plan import compare
from inventory.import_export.problems import Problem, Problems
from inventory.import_export.reader import read_rows
from inventory.import_export.scratch import CHUNK, Scratch
from inventory.web.idempotency import recall

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from inventory.import_export.reader import ParsedRow
    from inventory.web.idempotency import RequestKey

    Progress = Callable[[int], None]

T = TypeVar("T")

ATTEMPTS = 3


def no_progress(_rows: int) -> None:
    pass


def import_products(
    file: IO[bytes],
    *,
    mode: str = "upsert",
    dry_run: bool = False,
    key: RequestKey | None = None,
    progress: Progress = no_progress,
    folder: str | None = None,
) -> Outcome:
    """Create and update products from a CSV file in one transaction. A dry run only reads.

    ``progress`` is called with the number of rows done since its last call. Every row counts twice: when it is parsed
    and when it is compared. ``folder`` is for temporary files. Raises ImportInvalid with the first problems,
    UnsupportedEncoding, DuplicateSku or DuplicateCategory after repeated collisions with other writers, and what
    ``claim`` raises.
    """
    with Scratch(folder) as scratch:
        problems = validate_rows(file, scratch, progress)
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return apply_rows(scratch, problems, mode=mode, dry_run=dry_run, key=key, progress=progress)
            except (IntegrityError, DuplicateCategory):
                # Another writer created the same SKU or category, or deleted the category, since the snapshot. The
                # next one shows it.
                if attempt == ATTEMPTS:
                    raise
    raise AssertionError("unreachable")


def validate_rows(file: IO[bytes], scratch: Scratch, progress: Progress) -> Problems:
    """Parse the whole file and store its valid rows in ``scratch``. Returns the problems of the others."""
    problems = Problems()
    for rows in chunked(read_rows(file)):
        problems = problems.plus(problem for row in rows for problem in row_problems(row, scratch))
        scratch.add_rows([row for row in rows if not row.problems])
        progress(len(rows))
    return problems


def row_problems(row: ParsedRow, scratch: Scratch) -> Iterator[Problem]:
    yield from row.problems
    if "sku" in row.cells:
        earlier = scratch.duplicate_of(fold(row.cells["sku"]), row.number)
        if earlier is not None:
            yield Problem(row.number, "sku", f"Duplicate SKU, also in row {earlier}.")


def chunked(items: Iterator[T]) -> Iterator[list[T]]:
    while chunk := list(islice(items, CHUNK)):
        yield chunk


def apply_rows(
    scratch: Scratch, problems: Problems, *, mode: str, dry_run: bool, key: RequestKey | None, progress: Progress
) -> Outcome:
    """Compare the stored rows with a new snapshot, and write what they change unless this is a dry run.

    Raises InsufficientScope if they move stock and the caller may not.
    """
    with begin(SNAPSHOT):
        earlier = recall(key)
        if earlier is not None:
            return outcome_of(earlier)
        planned, problems = compare_rows(scratch, problems, mode, progress)
    problems.raise_if_any()
    if planned.stock_transactions:
        require("stock")
    if dry_run:
        return planned
    outcome = apply_changes(scratch, planned.rows, mode, key)
    activity.note_imported()
    return outcome


def compare_rows(scratch: Scratch, problems: Problems, mode: str, progress: Progress) -> tuple[Outcome, Problems]:
    """Compare the stored rows with the catalogue, and store their changes in ``scratch``.

    Returns what the changes would do, and ``problems`` with those that only the catalogue shows.
    """
    planned = Outcome(dry_run=True)
    scratch.delete_changes()
    for rows in scratch.rows():
        changes, found = compare(rows, mode)
        scratch.add_changes(changes)
        planned, problems = planned.plus(changes, rows=len(rows)), problems.plus(found)
        progress(len(rows))
    return planned, problems
