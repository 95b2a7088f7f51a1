"""Examples in the OpenAPI document: one sequence of requests about one product.

``tests/web/test_openapi_examples.py`` sends every request to an empty database and compares the responses.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from inventory.database.keyset import pack

if TYPE_CHECKING:
    from inventory.web.openapi.json_types import JsonObject

JSON, CSV, JSON_LINES = "application/json", "text/csv", "application/x-ndjson"
BATCH_ID = "7a0c0f6e-3f4e-4f0e-9d0c-6d1f0a6f5b1e"
REVERSAL_ID = "c2b7d9de-1f0b-4c53-8a55-90ad3b1c7f42"


def timestamp(minute: int) -> str:
    return f"2026-03-02T09:{minute:02}:00.482910+00:00"


NEW_CATEGORY = {"name": "Kitchen", "description": "Mugs, plates and bowls"}
CATEGORY = {"id": 1, **NEW_CATEGORY, "created_at": timestamp(0), "updated_at": timestamp(0)}

NEW_PRODUCT = {
    "sku": "MUG-01",
    "name": "Blue mug",
    "price": 12.5,
    "cost": 7.25,
    "quantity_on_hand": 10,
    "reorder_point": 8,
    "location": "A-3",
    "category_id": 1,
}
PRODUCT = {
    "id": 1,
    "sku": "MUG-01",
    "name": "Blue mug",
    "description": None,
    "price": 12.5,
    "cost": 7.25,
    "quantity_on_hand": 10,
    "reorder_point": 8,
    "location": "A-3",
    "category_id": 1,
    "is_active": True,
    "version": 1,
    "last_counted_at": None,
    "created_at": timestamp(1),
    "updated_at": timestamp(1),
}
SOLD_PRODUCT = PRODUCT | {"quantity_on_hand": 6, "updated_at": timestamp(2)}

# Uses product_id, so that the examples also work with the demo data of `make run`.
SALE = {"product_id": 1, "transaction_type": "sale", "quantity": 4, "reference": "INV-1001"}
PURCHASE = {"product_id": 1, "transaction_type": "purchase", "quantity": 24, "reference": "PO-2044"}
DAMAGE = {
    "product_id": 1,
    "transaction_type": "adjustment",
    "quantity": -1,
    "reason": "damage",
    "notes": "Handle broken",
}
OPENING_ROW = {
    "id": 1,
    "product_id": 1,
    "sku": "MUG-01",
    "transaction_type": "adjustment",
    "quantity": 10,
    "delta": 10,
    "balance_after": 10,
    "seq": 1,
    "reason": "opening",
    "reference": None,
    "notes": None,
    "reverses_id": None,
    "batch_id": None,
    "actor": None,
    "created_at": timestamp(1),
}
SALE_ROW = OPENING_ROW | {
    "id": 2,
    "transaction_type": "sale",
    "quantity": 4,
    "delta": -4,
    "balance_after": 6,
    "seq": 2,
    "reason": None,
    "reference": "INV-1001",
    "created_at": timestamp(2),
}
PURCHASE_ROW = OPENING_ROW | {
    "id": 3,
    "transaction_type": "purchase",
    "quantity": 24,
    "delta": 24,
    "balance_after": 30,
    "seq": 3,
    "reason": None,
    "reference": "PO-2044",
    "batch_id": BATCH_ID,
    "created_at": timestamp(3),
}
DAMAGE_ROW = PURCHASE_ROW | {
    "id": 4,
    "transaction_type": "adjustment",
    "quantity": -1,
    "delta": -1,
    "balance_after": 29,
    "seq": 4,
    "reason": "damage",
    "reference": None,
    "notes": "Handle broken",
}
COUNT = {"counted_quantity": 28, "notes": "One missing"}
COUNT_ROW = OPENING_ROW | {
    "id": 5,
    "quantity": -1,
    "delta": -1,
    "balance_after": 28,
    "seq": 5,
    "reason": "count",
    "notes": "One missing",
    "created_at": timestamp(4),
}
REVERSAL = {"reference": "INV-1001", "notes": "Sold in error"}
REVERSAL_ROW = (
    COUNT_ROW
    | REVERSAL
    | {
        "id": 6,
        "quantity": 4,
        "delta": 4,
        "balance_after": 32,
        "seq": 6,
        "reason": "reversal",
        "reverses_id": 2,
        "created_at": timestamp(5),
    }
)
BATCH_REVERSAL = {"notes": "Delivery refused"}
CONTRA_DAMAGE_ROW = (
    REVERSAL_ROW
    | BATCH_REVERSAL
    | {
        "id": 7,
        "quantity": 1,
        "delta": 1,
        "balance_after": 33,
        "seq": 7,
        "reference": None,
        "reverses_id": 4,
        "batch_id": REVERSAL_ID,
        "created_at": timestamp(6),
    }
)
CONTRA_PURCHASE_ROW = CONTRA_DAMAGE_ROW | {
    "id": 8,
    "quantity": -24,
    "delta": -24,
    "balance_after": 9,
    "seq": 8,
    "reverses_id": 3,
}
BATCH = {"batch_id": BATCH_ID, "transactions": [PURCHASE_ROW, DAMAGE_ROW]}
BATCH_CONTRA = {"batch_id": REVERSAL_ID, "transactions": [CONTRA_DAMAGE_ROW, CONTRA_PURCHASE_ROW]}
FEED = [
    OPENING_ROW | {"crossed": None, "cursor": pack(["feed", 0, 1, timestamp(1)])},
    SALE_ROW | {"crossed": "low", "cursor": pack(["feed", 0, 2, timestamp(2)])},
]


def csv(*lines: str) -> str:
    return "".join(f"{line}\r\n" for line in lines)


def json_lines(*rows: JsonObject) -> str:
    return "".join(f"{orjson.dumps(row).decode()}\n" for row in rows)


PRICE_LIST = csv("SKU,Name,Price,Quantity,Reorder Point", "MUG-01,Blue mug,12.50,6,8")
PRODUCT_FILE = csv(
    "sku,name,description,price,cost,quantity_on_hand,reorder_point,location,category,is_active,expected_quantity",
    "MUG-01,Blue mug,,12.50,7.25,6,8,A-3,Kitchen,true,6",
)
LEDGER_FILE = csv(
    "id,product_id,sku,transaction_type,quantity,delta,balance_after,seq,reason,reference,notes,reverses_id,batch_id,"
    "actor,created_at",
    f"1,1,MUG-01,adjustment,10,10,10,1,opening,,,,,,{timestamp(1)}",
    f"2,1,MUG-01,sale,4,-4,6,2,,INV-1001,,,,,{timestamp(2)}",
)
# An existing product with a new price, and a new product.
CHANGED_FILE = csv(
    "sku,name,price,quantity_on_hand,category", "MUG-01,Blue mug,14.50,10,Kitchen", "MUG-02,Red mug,12.50,12,Kitchen"
)
IMPORTED = {"rows": 2, "created": 1, "updated": 1, "unchanged": 0, "stock_transactions": 1, "dry_run": False}

# Request bodies by operation and name.
REQUESTS: dict[str, JsonObject] = {
    "create_category": {"category": NEW_CATEGORY},
    "create_product": {"product": NEW_PRODUCT},
    "record_transaction": {"sale": SALE, "purchase": PURCHASE, "adjustment": DAMAGE},
    "record_batch": {"batch": {"lines": [PURCHASE, DAMAGE]}},
    "count_product": {"count": COUNT},
    "reverse_transaction": {"reversal": REVERSAL},
    "reverse_batch": {"reversal": BATCH_REVERSAL},
    "update_category": {"change": {"description": "Mugs and plates"}},
    "put_category": {"change": {"description": "Mugs and bowls"}},
    "update_product": {"change": {"location": "A-4", "reorder_point": 12}},
    "put_product": {"change": {"location": "B-1"}},
}
ANSWERS: dict[str, JsonObject] = {
    "create_category": {JSON: CATEGORY},
    "list_categories": {JSON: [CATEGORY]},
    "get_category": {JSON: CATEGORY | {"product_count": 1, "products": [SOLD_PRODUCT]}},
    "update_category": {JSON: CATEGORY | {"description": "Mugs and plates", "updated_at": timestamp(8)}},
    "put_category": {JSON: CATEGORY | {"description": "Mugs and bowls", "updated_at": timestamp(9)}},
    "create_product": {JSON: PRODUCT},
    "list_products": {JSON: [SOLD_PRODUCT]},
    "list_low_stock": {JSON: [SOLD_PRODUCT]},
    "get_product": {JSON: SOLD_PRODUCT | {"transactions": [SALE_ROW]}},
    "get_product_by_sku": {JSON: SOLD_PRODUCT | {"transactions": [SALE_ROW]}},
    "get_stock": {JSON: {"product_id": 1, "sku": "MUG-01", "as_of": timestamp(2), "quantity_on_hand": 6}},
    "count_product": {JSON: COUNT_ROW},
    "update_product": {
        JSON: PRODUCT
        | {
            "quantity_on_hand": 9,
            "reorder_point": 12,
            "location": "A-4",
            "version": 2,
            "last_counted_at": timestamp(4),
            "updated_at": timestamp(8),
        }
    },
    "put_product": {
        JSON: PRODUCT
        | {
            "quantity_on_hand": 9,
            "reorder_point": 12,
            "location": "B-1",
            "version": 3,
            "last_counted_at": timestamp(4),
            "updated_at": timestamp(9),
        }
    },
    "record_transaction": {JSON: SALE_ROW},
    "list_transactions": {JSON: [SALE_ROW, OPENING_ROW]},
    "get_transaction": {JSON: SALE_ROW},
    "list_product_transactions": {JSON: [SALE_ROW]},
    "read_transactions_feed": {JSON: FEED},
    "read_products_feed": {JSON: [SOLD_PRODUCT, {"id": 2, "sku": "MUG-02", "deleted": True}]},
    "reverse_transaction": {JSON: REVERSAL_ROW},
    "record_batch": {JSON: BATCH},
    "get_batch": {JSON: BATCH},
    "reverse_batch": {JSON: BATCH_CONTRA},
    "export_price_list": {CSV: PRICE_LIST},
    "export_products": {CSV: PRODUCT_FILE, JSON_LINES: json_lines(SOLD_PRODUCT)},
    "export_transactions": {CSV: LEDGER_FILE, JSON_LINES: json_lines(OPENING_ROW, SALE_ROW)},
    "import_products": {JSON: IMPORTED},
    "get_health": {
        JSON: {
            "status": "ok",
            "database": "SQLite 3.53.0",
            "revision": "0006",
            "pool": {"size": 8, "in_use": 1},
            "limiter": "redis",
        }
    },
    "get_liveness": {JSON: {"status": "ok"}},
}


def without_ids(answer: JsonObject) -> JsonObject:
    """The same response for a dry run, without ids."""
    if "transactions" in answer:
        return answer | {"batch_id": None, "transactions": [without_ids(row) for row in answer["transactions"]]}
    return answer | {"id": None, "batch_id": None}
