"""/export and /import: products and the ledger as files."""

from __future__ import annotations

import hashlib
from contextlib import nullcontext
from functools import partial
from typing import IO, TYPE_CHECKING

from flask import Response, current_app, request

from inventory import errors
from inventory.import_export import exporter, importer
from inventory.import_export.schemas import ImportOut, ImportQuery, ProductExportQuery, TransactionExportQuery
from inventory.import_export.slots import Slots
from inventory.import_export.temporary import limit_sending, spooled_if_slow
from inventory.import_export.uploads import uploaded_file
from inventory.web.blueprint import Blueprint
from inventory.web.idempotency import idempotency_key
from inventory.web.openapi.examples import CHANGED_FILE
from inventory.web.openapi.operations import ON_BODY

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from contextlib import AbstractContextManager

    from flask.blueprints import BlueprintSetupState

    from inventory.fields import Values

blueprint = Blueprint("import_export", __name__, description="CSV and JSON Lines exports, and CSV import.")

# Name of the extension.
SLOTS = "inventory_transfers"
SMALL_FILE = 64 * 1024
MEDIA_TYPES = {"csv": "text/csv; charset=utf-8", "jsonl": "application/x-ndjson"}
FILE = {"type": "string", "description": "Text in UTF-8."}
# Swagger UI shows a file chooser for ``format: binary``, and client generators take a file for it.
CSV_FILE = {
    "type": "string",
    "format": "binary",
    "description": "CSV in UTF-8, separated by comma, semicolon or tab.",
}
CSV_FORM = {"type": "object", "properties": {"file": CSV_FILE}, "required": ["file"]}
CSV_BODY = {
    "required": True,
    "content": {
        "text/csv": {"schema": CSV_FILE, "example": CHANGED_FILE},
        "multipart/form-data": {"schema": CSV_FORM, "encoding": {"file": {"contentType": "text/csv"}}},
    },
}

# An import that collides with other writers of the same SKU or category several times gives up.
IMPORT_ERRORS = {errors.ImportInvalid, errors.DuplicateSku, errors.DuplicateCategory, *ON_BODY} - {errors.MalformedJson}


def limit_transfers(state: BlueprintSetupState) -> None:
    """Limit how many imports and exports a worker of the application processes at once."""
    state.app.extensions[SLOTS] = Slots(state.app.config["INVENTORY_MAX_TRANSFERS"])


blueprint.record_once(limit_transfers)


def slots() -> Slots:
    found: Slots = current_app.extensions[SLOTS]
    return found


def place_for_import() -> AbstractContextManager[object]:
    """A slot, unless the file is so small that its import takes no longer than other requests. Raises RateLimited."""
    length = request.content_length
    return nullcontext() if length is not None and length <= SMALL_FILE else slots().take()


def attachment(export: Callable[[], Generator[bytes]], name: str, file_format: str) -> Response:
    """A file that is streamed. Raises RateLimited if the worker is busy with others."""
    folder = current_app.config["INVENTORY_TEMP_DIR"]
    limit_sending(request.environ)
    return Response(
        slots().stream(lambda: spooled_if_slow(export(), folder)),
        content_type=MEDIA_TYPES[file_format],
        headers={"Content-Disposition": f'attachment; filename="{name}.{file_format}"'},
    )


@blueprint.route("/export/products-csv", scope="read")
@blueprint.other_response(200, FILE, content_type="text/csv")
def export_price_list() -> Response:
    """Export a price list.

    Active products as CSV in UTF-8, ordered by id, with the columns `SKU,Name,Price,Quantity,Reorder Point`. An
    apostrophe is put before text that a spreadsheet would read as a formula.
    """
    return attachment(exporter.export_price_list, "price-list", "csv")


@blueprint.route("/export/products", scope="read")
@blueprint.arguments(ProductExportQuery, location="query")
@blueprint.other_response(200, FILE, content_type="application/x-ndjson")
@blueprint.other_response(200, FILE, content_type="text/csv")
def export_products(query: Values) -> Response:
    """Export products.

    As CSV with the columns that the import reads, or as JSON Lines with the objects of `GET /products`. Ordered by id
    and streamed from one snapshot of the database. It accepts the filters of the list and is not paginated. In CSV, an
    apostrophe is put before text that a spreadsheet would read as a formula. The import removes it.
    """
    file_format = query.pop("format")
    return attachment(partial(exporter.export_products, query, file_format), "products", file_format)


@blueprint.route("/export/transactions", scope="read")
@blueprint.arguments(TransactionExportQuery, location="query")
@blueprint.other_response(200, FILE, content_type="application/x-ndjson")
@blueprint.other_response(200, FILE, content_type="text/csv")
def export_transactions(query: Values) -> Response:
    """Export the ledger.

    All rows that match the filters, in the order in which they were written, as CSV or JSON Lines. Streamed from one
    snapshot of the database. In CSV, an apostrophe is put before text that a spreadsheet would read as a formula.
    """
    file_format = query.pop("format")
    return attachment(partial(exporter.export_transactions, query, file_format), "transactions", file_format)


@blueprint.route("/import/products", scope="catalogue", methods=["POST"])
@blueprint.arguments(ImportQuery, location="query")
@blueprint.response(200, ImportOut)
@blueprint.reads_file(CSV_BODY)
@blueprint.errors(*IMPORT_ERRORS)
def import_products(query: Values) -> object:
    """Import products.

    Creates and updates products from a CSV file: all rows or none. The file is text in UTF-8, separated by comma,
    semicolon or tab. Its first line names the columns, in any order: `sku`, `name`, `description`, `price`, `cost`,
    `quantity_on_hand`, `reorder_point`, `location`, `category` (its name), `is_active`, `expected_quantity`. Case and
    spaces in a heading do not matter, and `Quantity` means `quantity_on_hand`, so both product exports can be imported.
    `sku` is required; new products also require `name`, `price` and `category`. A category that does not exist is
    created. A missing column leaves its field unchanged. An empty cell means null where null is allowed. In `sku`,
    `name`, `location` and `category`, each run of white space becomes one space. SKUs that differ only in that are
    duplicates.

    A `quantity_on_hand` that equals the `expected_quantity` of its row does not change the stock, even if the stock has
    changed since the export. A different value is a count, which is rejected if the stock has changed since the export.
    Without an `expected_quantity`, every `quantity_on_hand` is a count, and overrides movements since the export. A new
    product starts with the `quantity_on_hand` of its row. A SKU that was changed since the export means a new product,
    so export again after changing SKUs.

    If any row has an error, nothing is imported, and 422 `import_invalid` lists row, column and reason of the first
    100 errors. A dry run takes no lock and changes nothing.
    """
    with place_for_import(), uploaded_file() as file:
        dry_run = query["dry_run"]
        key = idempotency_key(query, digest(file), moves_stock=not dry_run)
        folder = current_app.config["INVENTORY_TEMP_DIR"]
        return importer.import_products(file, **query, key=None if dry_run else key, folder=folder)


def digest(file: IO[bytes]) -> str:
    """SHA-256 of a whole file."""
    whole = hashlib.sha256()
    while block := file.read(1 << 20):
        whole.update(block)
    return whole.hexdigest()
