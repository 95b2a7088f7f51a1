"""The text of API keys, and the HMACs that are stored instead of it.

A key is ``inv_``, its public id and 256 random bits. The HMAC needs no slow hash, because nobody can guess the bits
(https://cheatsheetseries.owasp.org/cheatsheets/Password_Storage_Cheat_Sheet.html#peppering). The pepper is not in the
database, so write access to the database is not enough to make a key.
"""

from __future__ import annotations

import hmac
import re
import secrets
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from inventory.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

KEY = re.compile(r"inv_([0-9a-f]{12})_[A-Za-z0-9_-]{43}")


@dataclass(frozen=True)
class Pepper:
    """The secret under the HMACs. Its ``fingerprint`` is stored with each, to tell a wrong pepper from a wrong key."""

    value: str

    def digest(self, key: str) -> str:
        """HMAC-SHA256 in hexadecimal."""
        return hmac.digest(self.value.encode(errors="surrogateescape"), key.encode(), "sha256").hex()

    @cached_property
    def fingerprint(self) -> str:
        return self.digest("fingerprint of the pepper")[:16]


def new_id() -> str:
    return secrets.token_hex(6)


def is_id(text: str) -> bool:
    return re.fullmatch("[0-9a-f]{12}", text) is not None


def new_key(key_id: str) -> str:
    return f"inv_{key_id}_{secrets.token_urlsafe(32)}"


def id_in(key: str) -> str | None:
    """The public id in a key. None if this is not the text of a key."""
    match = KEY.fullmatch(key)
    return match and match[1]


def required_pepper(config: Mapping[str, Any]) -> Pepper:
    """The pepper of an application. Raises ConfigError if there is none."""
    value = config["INVENTORY_KEY_PEPPER"]
    if value is None:
        raise ConfigError(
            "inventory: INVENTORY_KEY_PEPPER is required for API keys. Set it to a secret that you keep, such as the "
            "output of 'openssl rand -hex 32'. For a demo on this machine alone, set INVENTORY_AUTH=off instead."
        )
    return Pepper(value)
