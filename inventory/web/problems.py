"""Limits the number of validation errors in a response."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import islice
from typing import TYPE_CHECKING, Any

from inventory.errors import ValidationFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_PROBLEMS = 100
# Names of unknown fields come from the client and can be as long as the body.
MAX_NAME = 50


def validation_failed(details: Mapping[str, object]) -> ValidationFailed:
    """The error for these messages by location. Contains at most MAX_PROBLEMS messages and the number omitted."""
    named, omitted = first_problems(details)
    if not omitted:
        return ValidationFailed(details=named)
    message = f"Validation failed. See details. Errors omitted: {omitted}."
    return ValidationFailed(message, named | {"omitted": omitted})


def first_problems(details: Mapping[str, object]) -> tuple[dict[str, Any], int]:
    """The first messages of a tree of field errors, as a tree, and the number of messages omitted."""
    found = problems(details)
    named: dict[str, Any] = {}
    for path, message in islice(found, MAX_PROBLEMS):
        place = named
        for name in path[:-1]:
            place = place.setdefault(name, {})
        place.setdefault(path[-1], []).append(message)
    return named, sum(1 for _ in found)


def problems(node: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], str]]:
    """All messages with their paths. marshmallow uses integers for the items of a list."""
    if isinstance(node, Mapping):
        for name, below in node.items():
            yield from problems(below, (*path, shortened(str(name))))
    else:
        yield from ((path, message) for message in node)


def shortened(name: str) -> str:
    return name if len(name) <= MAX_NAME else f"{name[: MAX_NAME - 1]}…"
