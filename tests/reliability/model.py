"""A model of the service in plain Python, without a database. The state machine compares responses with it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

MAX_STOCK = 10**12


class Rejected(Exception):
    """The error that a request must return."""

    def __init__(self, status: int, slug: str, **details: Any) -> None:
        super().__init__(slug)
        self.response = status, slug
        self.details = details


@dataclass
class Item:
    """A product: its fields, and its ledger rows as the service must show them."""

    id: int
    sku: str
    reorder_point: int
    is_active: bool
    created_at: str
    version: int = 1
    rows: list[dict[str, Any]] = field(default_factory=list)

    @property
    def stock(self) -> int:
        return int(self.rows[-1]["balance_after"]) if self.rows else 0

    @property
    def movements(self) -> list[dict[str, Any]]:
        """All rows except the opening stock."""
        return [row for row in self.rows if (row["seq"], row["reason"]) != (1, "opening")]

    @property
    def state(self) -> tuple[int, int, int]:
        """States that differ must have different ETags."""
        return self.id, self.version, len(self.rows)


class Draft:
    """Rows that a request would add. Each is based on the stock after the rows before it."""

    def __init__(self, batch: bool = False) -> None:
        self.rows: list[dict[str, Any]] = []
        self.batch = batch

    def move(
        self,
        item: Item,
        transaction_type: str,
        quantity: int,
        *,
        reason: str | None = None,
        expected: int | None = None,
        reverses: int | None = None,
        reference: str | None = None,
        notes: str | None = None,
    ) -> None:
        """Add a row, or raise Rejected."""
        stock, seq = self.last(item)
        is_opening = reason == "opening" and seq == 0
        delta = -quantity if transaction_type == "sale" else quantity
        if not item.is_active and transaction_type != "adjustment":
            raise Rejected(409, "product_inactive")
        expect(expected, stock)
        if stock + delta < 0:
            raise Rejected(400, "insufficient_stock", available=stock, requested=-delta)
        if stock + delta > MAX_STOCK:
            raise Rejected(422, "validation_error")
        self.rows.append(
            {
                "product_id": item.id,
                "sku": item.sku,
                "transaction_type": transaction_type,
                "quantity": quantity,
                "delta": delta,
                "balance_after": stock + delta,
                "seq": seq + 1,
                "reason": reason,
                "reference": reference,
                "notes": notes,
                "reverses_id": reverses,
                "actor": None,
                "crossed": None if is_opening else crossed(stock, stock + delta, item.reorder_point),
            }
        )

    def last(self, item: Item) -> tuple[int, int]:
        for row in reversed(self.rows):
            if row["product_id"] == item.id:
                return row["balance_after"], row["seq"]
        return item.stock, len(item.rows)


def expect(expected: int | None, stock: int) -> None:
    if expected is not None and expected != stock:
        raise Rejected(409, "stale_quantity", expected=expected, quantity_on_hand=stock)


def crossed(before: int, after: int, reorder_point: int) -> str | None:
    """How a change crosses the reorder point, if it does."""
    was_low, is_low = before <= reorder_point, after <= reorder_point
    if after == 0 and before > 0:
        return "out"
    if is_low and not was_low:
        return "low"
    return "recovered" if was_low and not is_low else None


class Shop:
    """All products and the ledger."""

    def __init__(self) -> None:
        self.items: dict[int, Item] = {}
        self.rows: dict[int, dict[str, Any]] = {}
        self.batches: dict[str, list[int]] = {}

    def named(self, sku: str) -> Item:
        for item in self.items.values():
            if item.sku.casefold() == sku.strip().casefold():
                return item
        raise Rejected(400, "unknown_product")

    @property
    def reversed_ids(self) -> set[int]:
        return {row["reverses_id"] for row in self.rows.values()} - {None}

    def move(self, line: Mapping[str, Any], draft: Draft | None = None) -> Draft:
        """A request to /transactions, or a line of a batch."""
        draft = draft or Draft()
        item = self.items.get(line["product_id"]) if "product_id" in line else self.named(line["sku"])
        if item is None:
            raise Rejected(400, "unknown_product")
        reason = "other" if line["transaction_type"] == "adjustment" else None
        draft.move(
            item,
            line["transaction_type"],
            line["quantity"],
            reason=line.get("reason", reason),
            expected=line.get("expected_quantity"),
            reference=line.get("reference"),
        )
        return draft

    def batch(self, lines: Sequence[Mapping[str, Any]]) -> Draft:
        draft, errors = Draft(batch=True), []
        for number, line in enumerate(lines):
            try:
                self.move(line, draft)
            except Rejected as error:
                errors.append({"line": number, "error": error.response[1], **error.details})
        return all_or_none(draft, errors)

    def count(self, item: Item, counted: int, expected: int | None) -> Draft:
        expect(expected, item.stock)
        draft = Draft()
        draft.move(item, "adjustment", counted - item.stock, reason="count")
        return draft

    def reverse(self, row_id: int, draft: Draft | None = None, **fields: Any) -> Draft:
        row = self.rows.get(row_id)
        if row is None:
            raise Rejected(404, "transaction_not_found")
        if row["reason"] == "reversal" or row["delta"] == 0:
            raise Rejected(409, "not_reversible")
        if row_id in self.reversed_ids:
            raise Rejected(409, "already_reversed")
        draft = draft or Draft()
        item = self.items[row["product_id"]]
        draft.move(item, "adjustment", -row["delta"], reason="reversal", reverses=row_id, **fields)
        return draft

    def reverse_batch(self, batch_id: str) -> Draft:
        ids = self.batches.get(batch_id)
        if ids is None:
            raise Rejected(404, "transaction_not_found")
        rows = [self.rows[row_id] for row_id in ids]
        if rows[0]["reason"] == "reversal":
            raise Rejected(409, "not_reversible")
        if self.reversed_ids & set(ids):
            raise Rejected(409, "already_reversed")
        draft, errors = Draft(batch=True), []
        returning = [number for number in reversed(range(len(ids))) if rows[number]["delta"] < 0]
        taking = [number for number in reversed(range(len(ids))) if rows[number]["delta"] > 0]
        for number in returning + taking:
            try:
                self.reverse(ids[number], draft)
            except Rejected as error:
                errors.append({"line": number, "error": error.response[1], **error.details})
        return all_or_none(draft, sorted(errors, key=lambda item: item["line"]))

    def record(self, draft: Draft, ids: Iterable[int], batch_id: str | None, timestamps: Iterable[str]) -> None:
        """Add the rows of a successful request, with the ids and timestamps that the service returned."""
        for row, row_id, created_at in zip(draft.rows, ids, timestamps, strict=True):
            assert row_id > max(self.rows, default=0)
            item = self.items[row["product_id"]]
            assert created_at >= (item.rows[-1]["created_at"] if item.rows else item.created_at)
            self.rows[row_id] = row | {"id": row_id, "batch_id": batch_id, "created_at": created_at}
            item.rows.append(self.rows[row_id])
        if batch_id is not None:
            self.batches[batch_id] = list(self.rows)[-len(draft.rows) :]


def all_or_none(draft: Draft, errors: list[dict[str, Any]]) -> Draft:
    if errors:
        raise Rejected(400, "batch_rejected", error_count=len(errors), errors=errors)
    return draft
