from __future__ import annotations

from typing import TYPE_CHECKING

from tests.builders import assert_ledger_is_sound, product, transaction

if TYPE_CHECKING:
    from flask import Flask
    from flask.testing import FlaskClient


def test_a_sale_takes_from_the_stock(app: Flask, client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=10)
    sale = transaction(client, bolt["id"], "sale", 4)
    assert (sale["delta"], sale["balance_after"], sale["seq"]) == (-4, 6, 2)
    assert_ledger_is_sound(app)
