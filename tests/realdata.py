"""Real data that lies beside the checkout, not in it; a test that needs it is skipped where it is absent."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(__file__).parent.parent.parent / "shared" / "data"


def read(name: str) -> Iterator[dict[str, str]]:
    """The rows of ``name``, such as ``northwind/products``, as written in the file."""
    with gzip.open(FOLDER / f"{name}.csv.gz", "rt", encoding="utf-8", newline="") as file:
        yield from csv.DictReader(file)


def has(folder: str) -> bool:
    return (FOLDER / folder).is_dir()


def absence(folder: str) -> str:
    return f"the real data {folder} is not in {Path('..', 'shared', 'data')}"


def needs(folder: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(not has(folder), reason=absence(folder))
