"""Validates JSON Web Tokens of an identity provider (RFC 7519), with the public keys that it publishes (RFC 7517).

Follows RFC 8725: the algorithms are those of the settings, all asymmetric, and a key serves only its own algorithm.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections import Counter
from datetime import UTC, datetime
from http.client import HTTPException
from pathlib import Path
from threading import Lock
from typing import IO, TYPE_CHECKING, Any
from urllib.request import HTTPRedirectHandler, Request, build_opener

import jwt
import orjson

from inventory.auth.known import KnownCallers, KnownKey, RefusedKey, end_of_cache
from inventory.caller import SCOPES, Caller, is_legible

if TYPE_CHECKING:
    from collections.abc import Mapping

    Key = Mapping[str, Any]
    Keys = Mapping[str, Key]

# A key set is read again after this time, and for an unknown key at most this often.
MAX_AGE = 3600
READ_AGAIN_AFTER = 10
MAX_BYTES = 1024 * 1024
TIMEOUT = 3
# Clocks of the provider and of this service can differ.
LEEWAY = 10
MAX_SUBJECT = 100
# Also what the JSON and the numbers of a hostile token make the library raise.
INVALID = (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError, OSError)

logger = logging.getLogger(__name__)


class NoRedirects(HTTPRedirectHandler):
    """The address of the keys is that of the settings, and no other."""

    def redirect_request(self, *_args: object, **_kwargs: object) -> None:
        return None


class KeySet:
    """The public keys of the provider, from a file or an HTTPS URL. The last ones are kept if it is not reachable."""

    def __init__(self, location: str) -> None:
        self.location = location
        self.keys: Keys = {}
        self.read_at = self.tried_at = float("-inf")
        self.lock = Lock()

    def get(self, key_id: str | None) -> Key:
        """The key with an id; without an id the only key. Raises RefusedKey."""
        key = self.find(key_id)
        if key is None or time.monotonic() - self.read_at > MAX_AGE:
            # A request with a known key does not wait for the provider.
            self.read(wait=TIMEOUT if key is None else 0)
            key = self.find(key_id)
        if key is None:
            raise RefusedKey("the identity provider has no such key, or several")
        return key

    def find(self, key_id: str | None) -> Key | None:
        if key_id is None:
            return next(iter(self.keys.values())) if len(self.keys) == 1 else None
        return self.keys.get(key_id)

    def read(self, wait: float) -> None:
        """Read the keys, unless they were read a moment ago. If another thread does, wait for it up to so long."""
        if not self.lock.acquire(timeout=wait):
            return
        try:
            if time.monotonic() - self.tried_at > READ_AGAIN_AFTER:
                self.tried_at = time.monotonic()
                self.keys = keys_of(self.content())
                self.read_at = self.tried_at
        except (OSError, HTTPException, ValueError, TypeError, KeyError, AttributeError) as error:
            logger.warning("The keys of the identity provider could not be read: %s.", type(error).__name__)
        finally:
            self.lock.release()

    def content(self) -> bytes:
        if "://" not in self.location:
            return self.bounded(Path(self.location).open("rb"))
        request = Request(self.location, headers={"Accept": "application/json"})  # noqa: S310 - see check_key_set
        return self.bounded(build_opener(NoRedirects).open(request, timeout=TIMEOUT))

    def bounded(self, source: IO[bytes]) -> bytes:
        with source:
            found = source.read(MAX_BYTES + 1)
        if len(found) > MAX_BYTES:
            raise ValueError("too large")
        return found


def keys_of(content: bytes) -> Keys:
    """The keys of a set that are for signatures, by id. An id that occurs twice is ambiguous, and left out.

    Raises ValueError, TypeError, KeyError or AttributeError if the content is not a key set.
    """
    keys = [key for key in orjson.loads(content)["keys"] if key.get("kty") != "oct" and key.get("use", "sig") == "sig"]
    by_id = {str(key.get("kid", f"key {number}")): key for number, key in enumerate(keys)}
    repeated = Counter(str(key.get("kid")) for key in keys)
    return {key_id: key for key_id, key in by_id.items() if repeated[key_id] < 2}


class TokenValidator:
    """Validates tokens with the settings ``INVENTORY_JWT_…``."""

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self.issuer, self.audience = settings["INVENTORY_JWT_ISSUER"], settings["INVENTORY_JWT_AUDIENCE"]
        self.algorithms = settings["INVENTORY_JWT_ALGORITHMS"]
        self.claim, self.prefix = settings["INVENTORY_JWT_SCOPE_CLAIM"], settings["INVENTORY_JWT_SCOPE_PREFIX"]
        self.key_set = KeySet(settings["INVENTORY_JWT_KEYS"])
        self.known = KnownCallers()

    def knows(self, token: str) -> bool:
        return digest_of(token) in self.known.by_digest

    def caller(self, token: str) -> Caller:
        """Whose token this is. Raises RefusedKey."""
        return self.known.get(digest_of(token), lambda: self.validate(token))

    def validate(self, token: str) -> KnownKey:
        until = end_of_cache()
        try:
            header = jwt.get_unverified_header(token)
            algorithm = str(header.get("alg"))
            if algorithm not in self.algorithms:
                raise RefusedKey("the algorithm of the token is not allowed")
            described = self.key_set.get(header.get("kid"))
            # A key that names no algorithm serves all of its type.
            key = jwt.PyJWK(dict(described), described.get("alg", algorithm))
            claims = self.claims(token, key, algorithm)
            expires_at = datetime.fromtimestamp(int(claims["exp"]) + LEEWAY, UTC)
        except INVALID as error:
            # The names of the library's errors say what is wrong, without text of the token.
            raise RefusedKey(f"invalid token ({type(error).__name__})") from None
        return KnownKey(self.caller_of(claims), expires_at, until)

    def claims(self, token: str, key: jwt.PyJWK, algorithm: str) -> dict[str, Any]:
        """The claims of a token. Raises PyJWTError, also if the key is too short or for another algorithm."""
        return jwt.decode(
            token,
            key,
            algorithms=[algorithm],
            issuer=self.issuer,
            audience=self.audience,
            leeway=LEEWAY,
            options={"require": ["exp", "iss", "aud", "sub"], "enforce_minimum_key_length": True},
        )

    def caller_of(self, claims: Mapping[str, Any]) -> Caller:
        """The subject is the actor. Raises RefusedKey if it cannot be one."""
        subject = claims["sub"]
        if len(subject) > MAX_SUBJECT or not is_legible(subject):
            raise RefusedKey("the subject of the token is too long, blank, or has invisible characters")
        # Not an id of a key, and as short for any issuer.
        client = "jwt " + hashlib.sha256(f"{self.issuer}\n{subject}".encode()).hexdigest()[:32]
        return Caller(subject, client, self.scopes_in(claims.get(self.claim)))

    def scopes_in(self, value: object) -> frozenset[str]:
        """The scopes in a claim: words separated by spaces (RFC 8693 section 4.2), or an array."""
        words = value.split() if isinstance(value, str) else value if isinstance(value, list) else []
        named = (
            word.removeprefix(self.prefix) for word in words if isinstance(word, str) and word.startswith(self.prefix)
        )
        return frozenset(named) & SCOPES.keys()


def digest_of(token: str) -> str:
    return hashlib.sha256(token.encode(errors="surrogateescape")).hexdigest()
