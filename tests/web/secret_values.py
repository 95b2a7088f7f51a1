"""Requests with one value everywhere where a client can put one. It must appear neither in the log nor in traces."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

from sqlalchemy import text

from inventory.database.base import db

if TYPE_CHECKING:
    from flask import Flask


def send_everywhere(app: Flask, secret: str) -> set[int]:
    """Send the requests, also to views that fail with the value, and return their statuses."""
    client = app.test_client()

    @app.post("/broken")
    def broken() -> NoReturn:
        raise ValueError(f"invalid value: {secret!r}")

    @app.post("/broken-statement")
    def broken_statement() -> str:
        db.session.execute(text("INSERT INTO categories (id, name) VALUES (1, :name)"), {"name": secret})
        return "not reached"

    @app.post("/broken-cast")
    def broken_cast() -> str:
        db.session.execute(text("SELECT CAST(:value AS INTEGER), nothing(:value)"), {"value": secret})
        return "not reached"

    headers = dict.fromkeys(("Authorization", "X-API-Key", "Cookie", "User-Agent", "Referer", "If-Match"), secret)
    headers |= {"Idempotency-Key": secret, "X-Request-ID": f"{secret}?", "traceparent": secret}
    named = dict.fromkeys(("sku", "name", "description", "location", "notes", "reference", "reason", secret), secret)
    query = {secret: secret, "key": secret}
    paths = ["/products", f"/products/by-sku/{secret}", f"/{secret}", "/transactions", "/import/products", "/broken"]
    paths += ["/broken-statement", "/broken-cast", "/export/products", f"/docs/{secret}"]
    statuses = set()
    for path in paths:
        for method in ("GET", "POST", "PATCH", secret):
            response = client.open(path, method=method, headers=headers, json=named, query_string=query)
            statuses.add(response.status_code)
        statuses.add(client.post(path, json=named).status_code)
        statuses.add(client.post(path, data=f"sku,{secret}\n{secret},1\n", content_type="text/csv").status_code)
    return statuses
