"""The scope that each view requires. ``inventory/auth`` enforces it before the request is read."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

import flask

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F", bound="Callable[..., object]")

ATTRIBUTE = "access"


class Access(NamedTuple):
    """The required scope; None for views that need no key. Views with an optional key return less without it."""

    scope: str | None
    is_optional: bool = False


PUBLIC = Access(None)
# For views that declare nothing: no mistake makes one public.
UNDECLARED = Access("admin")


def requires(access: Access) -> Callable[[F], F]:
    """Declare what a view requires."""

    def decorator(view: F) -> F:
        setattr(view, ATTRIBUTE, access)
        return view

    return decorator


def declared(view: object) -> Access | None:
    found: Access | None = getattr(view, ATTRIBUTE, None)
    return found


def required() -> Access:
    """What the view of the current request requires. A request that matches no view requires nothing."""
    endpoint = flask.request.endpoint
    if endpoint is None:
        return PUBLIC
    return declared(flask.current_app.view_functions[endpoint]) or UNDECLARED
