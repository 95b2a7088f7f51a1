"""Problems of a product file: all are counted, and the first ones by row are listed."""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from itertools import chain, count
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

from inventory import errors

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_LISTED = 100


class Problem(NamedTuple):
    """What is wrong with a cell, or with a whole row if ``column`` is None. The header is row 1."""

    row: int
    column: str | None
    message: str


@dataclass(frozen=True)
class Problems:
    """How many problems a file has, and the first of them by row."""

    count: int = 0
    listed: tuple[Problem, ...] = ()

    def plus(self, problems: Iterable[Problem]) -> Problems:
        """These problems and any number of others. Problems of one row keep their order."""
        found = count()
        counted = (problem for problem, _number in zip(problems, found, strict=False))
        # nsmallest is stable, as sorted is, and keeps no more than it returns.
        listed = heapq.nsmallest(MAX_LISTED, chain(self.listed, counted), key=attrgetter("row"))
        return Problems(self.count + next(found), tuple(listed))

    def raise_if_any(self) -> None:
        """Raise ImportInvalid if there is a problem."""
        if self.count:
            raise self.as_error()

    def as_error(self) -> errors.ImportInvalid:
        plural = "1 error" if self.count == 1 else f"{self.count} errors"
        return errors.ImportInvalid(
            f"Nothing was imported: the file has {plural}.",
            {"error_count": self.count, "errors": [problem._asdict() for problem in self.listed]},
        )
