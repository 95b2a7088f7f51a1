"""Temporary files, in the directory of INVENTORY_TEMP_DIR."""

from __future__ import annotations

import errno
import logging
import os
import sqlite3
import tempfile
from contextlib import ExitStack, closing, contextmanager
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

# Seconds for which a client may keep an export waiting, summed over its parts, and those for which it may not read.
PATIENCE, STALLED_SECONDS = 5.0, 600.0
# While the rest of an export is written to a file, something is sent after so many seconds: proxies give up others.
PAUSE = 5.0
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


def limit_sending(environ: Mapping[str, Any]) -> None:
    """Close the connection of a client that does not read. gunicorn would wait for it without end."""
    if connection := environ.get("gunicorn.socket"):
        connection.settimeout(STALLED_SECONDS)


def spooled_if_slow(parts: Generator[bytes], folder: str | None) -> Generator[bytes]:
    """The parts of an export. If the client reads slowly, the rest is written to a file and sent from there.

    So the snapshot ends soon. As long as it lasts, SQLite's write-ahead log grows with each movement, and PostgreSQL
    removes no old versions of rows.
    """
    waited = 0.0
    with closing(parts), ExitStack() as files:
        for part in parts:
            paused = perf_counter()
            yield part
            waited += perf_counter() - paused
            if waited > PATIENCE:
                break
        else:
            return
        try:
            file = files.enter_context(tempfile.TemporaryFile(dir=folder))
        except OSError as error:
            logger.error("Cannot use the temporary directory %s: %s", folder or tempfile.tempdir, error)  # noqa: TRY400
            yield from parts
        else:
            yield from spooled(parts, file)


def spooled(parts: Generator[bytes], file: IO[bytes]) -> Generator[bytes]:
    """Write all parts to a file, then send it."""
    sent, last = 0, perf_counter()
    for part in parts:
        file.seek(0, os.SEEK_END)
        file.write(part)
        if perf_counter() - last > PAUSE:
            file.seek(sent)
            block = file.read(BLOCK)
            yield block
            sent, last = sent + len(block), perf_counter()
    parts.close()
    file.seek(sent)
    yield from iter(partial(file.read, BLOCK), b"")
