"""The type of JSON objects in the OpenAPI document and its examples."""

from __future__ import annotations

from typing import Any, TypeAlias

# Values have any JSON type, nested, which mypy cannot follow through apispec.
JsonObject: TypeAlias = dict[str, Any]
