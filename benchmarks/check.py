"""Compares the answers of the rivals with ours, before anything is measured."""

from __future__ import annotations

import csv
import io
from datetime import datetime
from typing import TYPE_CHECKING, Any

from benchmarks.catalogue import QUIET_PRODUCT
from benchmarks.servers import Request
from benchmarks.workloads import WORKLOADS, Workload, prepared, sample

if TYPE_CHECKING:
    from collections.abc import Sequence

    from benchmarks.servers import Answer, Server

# A product with more movements than are shown.
LONG_DETAIL = Workload("long detail", "", Request("GET", f"/products/{QUIET_PRODUCT}"))
# These differ between two requests that write the same.
OF_THE_WRITE = frozenset({"id", "seq", "balance_after", "batch_id", "created_at"})


class DifferentAnswer(Exception):
    """A rival does less or other work than we do."""


def check(servers: Sequence[Server]) -> None:
    """Raise DifferentAnswer if a server does not answer each workload's request as the first one does."""
    ours, *rivals = servers
    for workload in (LONG_DETAIL, *WORKLOADS.values()):
        expected = essence(workload, ours)
        for rival in rivals:
            found = essence(workload, rival)
            if found != expected:
                raise DifferentAnswer(f"{workload.name}: {difference(expected, found)} ({rival.name})")


def essence(workload: Workload, server: Server) -> object:
    """What an answer says, without what differs from request to request."""
    request = sample(prepared(workload, server))
    answer = server.send(request)
    if answer.status != workload.status:
        raise DifferentAnswer(f"{workload.name}: {server.name} answers {answer.status}: {answer.body[:500]!r}")
    if workload.status == 304:
        return answer.body
    if answer.headers["content-type"].startswith("text/csv"):
        return rows_of(answer)
    return normal(answer.json, without=OF_THE_WRITE if request.method == "POST" else frozenset())


def rows_of(answer: Answer) -> list[list[object]]:
    return [[number(cell) for cell in row] for row in csv.reader(io.StringIO(answer.body.decode()))]


def number(cell: str) -> object:
    """Amounts may have zeros at their ends."""
    try:
        return float(cell)
    except ValueError:
        return cell


def normal(value: Any, *, without: frozenset[str]) -> Any:
    """Times in one form, and objects without some names."""
    match value:
        case dict():
            return {name: normal(inner, without=without) for name, inner in value.items() if name not in without}
        case list():
            return [normal(inner, without=without) for inner in value]
        case str():
            return time(value)
        case _:
            return value


def time(text: str) -> object:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        return text


def difference(expected: Any, found: Any, place: str = "answer") -> str:
    """The first place where two answers differ."""
    if isinstance(expected, dict) and isinstance(found, dict) and expected.keys() == found.keys():
        pairs = [(f"{place}.{name}", expected[name], found[name]) for name in expected]
    elif isinstance(expected, list) and isinstance(found, list) and len(expected) == len(found):
        pairs = [(f"{place}[{index}]", *pair) for index, pair in enumerate(zip(expected, found, strict=True))]
    else:
        return f"{place} is {str(found)[:300]}, ours {str(expected)[:300]}"
    return next(difference(ours, theirs, inner) for inner, ours, theirs in pairs if ours != theirs)
