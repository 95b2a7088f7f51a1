"""Use cases of API keys: create, find, rotate, revoke."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, NamedTuple

from marshmallow import ValidationError
from sqlalchemy import delete, or_, select, update
from sqlalchemy.exc import IntegrityError

from inventory.auth.secrets import is_id, new_id, new_key
from inventory.caller import SCOPES, is_legible
from inventory.database.base import db, fetch_all, fetch_value
from inventory.database.types import fold
from inventory.database.unit_of_work import unit_of_work
from inventory.fields import Text
from inventory.models.api_key import ApiKey, ApiKeySecret

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from datetime import timedelta

    from sqlalchemy import Row

    from inventory.auth.secrets import Pepper

    Deliver = Callable[["Created"], None]

NAME = Text(required=True, max_length=100)


class KeyProblem(Exception):
    """Why something cannot be done with a key, for the command line. ``slug`` is for programs."""

    def __init__(self, slug: str, message: str) -> None:
        super().__init__(message)
        self.slug = slug


class Created(NamedTuple):
    """A key and its new secret text, which is not stored."""

    key: ApiKey
    text: str


def now() -> datetime:
    return datetime.now(UTC)


def keep_nowhere(_created: Created) -> None:
    pass


@unit_of_work
def create(
    pepper: Pepper,
    name: str,
    scopes: Iterable[str],
    expires_at: datetime | None = None,
    deliver: Deliver = keep_nowhere,
) -> Created:
    """Create a key. If ``deliver`` raises, nothing is created, since nobody has the secret.

    Raises KeyProblem for an invalid or used name, no scope, or an unknown one.
    """
    name, wanted = valid_name(name), set(scopes)
    if not wanted or wanted - SCOPES.keys():
        raise KeyProblem("invalid_scopes", f"The scopes must be one or more of {', '.join(SCOPES)}.")
    key = ApiKey(
        id=new_id(),
        name=name,
        name_folded=fold(name),
        scopes=" ".join(scope for scope in SCOPES if scope in wanted),
        expires_at=expires_at,
    )
    db.session.add(key)
    try:
        db.session.flush()
    except IntegrityError:
        raise KeyProblem(
            "duplicate_name", "Another key has this name. Rotate or revoke it, or use another name."
        ) from None
    created = Created(key, add_secret(key, pepper))
    deliver(created)
    return created


def valid_name(name: str) -> str:
    """The name without surrounding blanks. Raises KeyProblem."""
    try:
        name = NAME.deserialize(name)
    except ValidationError as error:
        raise KeyProblem("invalid_name", f"Invalid name: {' '.join(error.messages)}") from None
    if not is_legible(name) or is_id(name):
        raise KeyProblem("invalid_name", "Invalid name: It has invisible characters, or the form of an id.")
    return name


def add_secret(key: ApiKey, pepper: Pepper) -> str:
    text = new_key(key.id)
    db.session.add(ApiKeySecret(key_id=key.id, digest=pepper.digest(text), pepper=pepper.fingerprint))
    db.session.flush()
    return text


def find(name_or_id: str, *, lock: bool = False) -> ApiKey:
    """The key with this id, or the last one with this name. Raises KeyProblem."""
    matching = select(ApiKey).where(or_(ApiKey.id == name_or_id, ApiKey.name_folded == fold(name_or_id)))
    latest_first = matching.order_by(
        (ApiKey.id == name_or_id).desc(), ApiKey.revoked_at.is_(None).desc(), ApiKey.created_at.desc()
    )
    key = db.session.scalars(latest_first.with_for_update() if lock else latest_first).first()
    if key is None:
        raise KeyProblem("not_found", "No key has this name or id.")
    return key


def find_all() -> Sequence[ApiKey]:
    """All keys, oldest first."""
    return db.session.scalars(select(ApiKey).order_by(ApiKey.created_at, ApiKey.id)).all()


def secrets_of(key: ApiKey) -> Sequence[Row[tuple[datetime, datetime | None]]]:
    """When the secrets of a key were created, and when they expire, oldest first."""
    columns = select(ApiKeySecret.created_at, ApiKeySecret.expires_at)
    return fetch_all(columns.where(ApiKeySecret.key_id == key.id).order_by(ApiKeySecret.id))


def status_of(key: ApiKey) -> str:
    if key.revoked_at is not None:
        return "revoked"
    return "expired" if key.expires_at is not None and key.expires_at <= now() else "active"


@unit_of_work
def revoke(name_or_id: str) -> ApiKey:
    """Refuse all secrets of a key from now on. Raises KeyProblem if there is none."""
    key = find(name_or_id, lock=True)
    if key.revoked_at is None:
        key.revoked_at = now()
    return key


@unit_of_work
def rotate(pepper: Pepper, name_or_id: str, overlap: timedelta, deliver: Deliver = keep_nowhere) -> Created:
    """Add a secret. The newest one so far remains valid for ``overlap``, and older ones are deleted.

    If ``deliver`` raises, nothing is changed. Raises KeyProblem if there is none, or if it is revoked or has expired.
    """
    key = find(name_or_id, lock=True)
    if status_of(key) != "active":
        raise KeyProblem("not_active", f"The key is {status_of(key)}. Create a new one.")
    mine = ApiKeySecret.key_id == key.id
    newest = fetch_value(select(ApiKeySecret.id).where(mine).order_by(ApiKeySecret.id.desc()).limit(1))
    db.session.execute(delete(ApiKeySecret).where(mine, ApiKeySecret.id != newest))
    db.session.execute(update(ApiKeySecret).where(mine).values(expires_at=now() + overlap))
    created = Created(key, add_secret(key, pepper))
    deliver(created)
    return created


def count_active() -> int:
    return sum(status_of(key) == "active" for key in find_all())


def has_other_pepper(pepper: Pepper) -> bool:
    """Whether the latest secret of an active key was made with another pepper, so that it is refused."""
    active = {key.id for key in find_all() if status_of(key) == "active"}
    latest = dict(fetch_all(select(ApiKeySecret.key_id, ApiKeySecret.pepper).order_by(ApiKeySecret.id)))
    return any(used != pepper.fingerprint for key_id, used in latest.items() if key_id in active)
