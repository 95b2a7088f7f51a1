"""The clock of what a worker remembers of API keys and tokens."""

from __future__ import annotations

import pytest

from inventory.auth import known, tokens
from tests.auth.clock import Clock


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    for module in (known, tokens):
        monkeypatch.setattr(module, "time", made)
    return made
