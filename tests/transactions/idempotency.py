"""Helpers of the tests of idempotency keys."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.transactions.endpoints import ENDPOINTS

if TYPE_CHECKING:
    from werkzeug.test import TestResponse

REUSED = (422, "idempotency_key_reused")

each_endpoint = pytest.mark.parametrize("endpoint", ENDPOINTS)


def comparable(response: TestResponse) -> tuple[Any, ...]:
    """What a replay must have in common with the first response."""
    return response.status_code, response.data, response.headers.get("Location"), response.headers.get("ETag")


def is_replay(response: TestResponse) -> bool:
    return response.headers.get("Idempotent-Replayed") == "true"


def accepted(response: TestResponse) -> TestResponse:
    assert response.status_code in {200, 201}, response.text
    assert "Idempotent-Replayed" not in response.headers
    return response
