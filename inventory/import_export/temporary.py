"""Temporary files, in the directory of INVENTORY_TEMP_DIR."""

from __future__ import annotations

import errno
import logging
import sqlite3
import tempfile
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING

from inventory import errors

if TYPE_CHECKING:
    from collections.abc import Iterator

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
