from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.transactions.endpoints import Shop, open_shop

if TYPE_CHECKING:
    from flask.testing import FlaskClient


@pytest.fixture
def shop(client: FlaskClient) -> Shop:
    return open_shop(client)
