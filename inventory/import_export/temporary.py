"""Temporary files, in the directory of INVENTORY_TEMP_DIR."""

from __future__ import annotations

import errno
import logging
import sqlite3
import tempfile
from contextlib import closing, contextmanager
from functools import partial
from time import perf_counter
from typing import IO, TYPE_CHECKING, Any

from inventory import errors

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping

# The folder is full, over quota, protected or missing, or the file is larger than a limit allows.
UNUSABLE = {
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.EACCES,
    errno.EPERM,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EFBIG,
}

# How long in all a client may keep an export waiting, and how long one part of it.
PATIENCE, STALLED_SECONDS = 5.0, 60.0
BLOCK = 64 * 1024

logger = logging.getLogger(__name__)


@contextmanager
def temporary_file(folder: str | None) -> Iterator[IO[bytes]]:
    """A file that is deleted at the end.

    Raises StorageFull if the folder cannot be used, also by a Scratch within the block.
    """
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            yield file
    except OSError as error:
        if error.errno not in UNUSABLE:
            raise
        raise no_space(folder, error) from None
    except sqlite3.Error as error:
        raise no_space(folder, error) from None


def no_space(folder: str | None, error: Exception) -> errors.StorageFull:
    logger.error("Cannot use the temporary directory %s: %s", folder or tempfile.tempdir, error)
    return errors.StorageFull(
        "Nothing was imported: the server's temporary directory is full or not writable. "
        "The operator can free space or set INVENTORY_TEMP_DIR to another directory."
    )


def give_up_stalled(environ: Mapping[str, Any]) -> None:
    """Close the connection of a client that does not read. gunicorn would wait for it without end."""
    if connection := environ.get("gunicorn.socket"):
        connection.settimeout(STALLED_SECONDS)


def unhurried(parts: Generator[bytes], folder: str | None) -> Generator[bytes]:
    """The parts of an export. If the client reads slowly, the rest is written to a file and sent from there.

    So the snapshot ends soon. As long as it lasts, SQLite's write-ahead log grows with each movement, and PostgreSQL
    removes no old versions of rows.
    """
    waited = 0.0
    with closing(parts):
        for part in parts:
            paused = perf_counter()
            yield part
            waited += perf_counter() - paused
            if waited > PATIENCE:
                break
        else:
            return
        with temporary_file(folder) as file:
            file.writelines(parts)
            parts.close()
            file.seek(0)
            yield from iter(partial(file.read, BLOCK), b"")
