"""/export and /import: the catalogue and the ledger as files."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

from flask import Response, current_app, request

from inventory import errors
from inventory.import_export import importer, service
from inventory.import_export.schemas import ImportOut, ImportQuery, ProductExportQuery, TransactionExportQuery
from inventory.web.api import Blueprint, refuse_encodings, refuse_other_charset
from inventory.web.headers import idempotency_key
from inventory.web.openapi import IDEMPOTENCY_KEY, ON_BODY, ON_KEY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from werkzeug.datastructures import FileStorage

blueprint = Blueprint("exchange", __name__, description="The catalogue and the ledger as files.")

MEDIA_TYPES = {"csv": "text/csv; charset=utf-8", "jsonl": "application/x-ndjson"}
FILE = {"type": "string", "description": "Text in UTF-8."}
CSV_BODY = {
    "required": True,
    "content": {
        "text/csv": {"schema": FILE},
        "multipart/form-data": {"schema": {"type": "object", "properties": {"file": FILE}, "required": ["file"]}},
    },
}


def attachment(body: Iterator[bytes], name: str, file_format: str) -> Response:
    return Response(
        body,
        content_type=MEDIA_TYPES[file_format],
        headers={"Content-Disposition": f'attachment; filename="{name}.{file_format}"'},
    )


@blueprint.route("/export/products-csv")
@blueprint.response(200, FILE, content_type="text/csv")
def export_price_list() -> Response:
    """Export active products as SKU, Name, Price, Quantity, Reorder Point."""
    return attachment(service.export_price_list(), "price-list", "csv")


@blueprint.route("/export/products")
@blueprint.arguments(ProductExportQuery, location="query")
@blueprint.response(200, FILE, content_type="application/x-ndjson")
@blueprint.response(200, FILE, content_type="text/csv")
def export_products(query: dict[str, Any]) -> Response:
    """Export products, by id, as the columns that the import reads, or as JSON lines."""
    file_format = query.pop("format")
    return attachment(service.export_products(query, file_format), "products", file_format)


@blueprint.route("/export/transactions")
@blueprint.arguments(TransactionExportQuery, location="query")
@blueprint.response(200, FILE, content_type="application/x-ndjson")
@blueprint.response(200, FILE, content_type="text/csv")
def export_transactions(query: dict[str, Any]) -> Response:
    """Export the ledger in the order in which it was written."""
    file_format = query.pop("format")
    return attachment(service.export_transactions(query, file_format), "transactions", file_format)


@blueprint.route("/import/products", methods=["POST"])
@blueprint.arguments(ImportQuery, location="query")
@blueprint.response(200, ImportOut)
@blueprint.doc(requestBody=CSV_BODY)
@blueprint.document(IDEMPOTENCY_KEY, *ON_KEY)
@blueprint.errors(errors.ImportInvalid, *(set(ON_BODY) - {errors.MalformedJson}))
def import_products(query: dict[str, Any]) -> Any:
    """Create and update products from a CSV file, all of it or nothing."""
    with uploaded_file() as file:
        rehearsal = query["dry_run"]
        key = idempotency_key(query, digest(file), moves_stock=not rehearsal)
        return importer.import_products(file, **query, key=None if rehearsal else key)


def digest(file: IO[bytes]) -> str:
    """SHA-256 of a whole file."""
    whole = hashlib.sha256()
    while block := file.read(1 << 20):
        whole.update(block)
    return whole.hexdigest()


@contextmanager
def uploaded_file() -> Iterator[IO[bytes]]:
    """The request's file on disk: its upload may be slow, and nothing is locked while it lasts."""
    request.max_content_length = current_app.config["INVENTORY_MAX_IMPORT_BYTES"]
    refuse_encodings(request)
    if request.mimetype == "multipart/form-data":
        file = only_file()
        refuse_other_charset(file.mimetype_params)
        yield file.stream
    elif request.mimetype == "text/csv":
        with tempfile.TemporaryFile() as copy:
            shutil.copyfileobj(request.stream, copy)
            # A connection that breaks ends the stream like a file that is complete, and often between two rows.
            if request.content_length not in {None, copy.tell()}:
                raise errors.BadRequest("The body is shorter than its Content-Length says; nothing was imported.")
            copy.seek(0)
            yield copy
    else:
        raise errors.UnsupportedMediaType("Send the file as text/csv, or as the field 'file' of multipart/form-data.")


def only_file() -> FileStorage:
    """The form's one file. Whatever else it holds is refused: an ignored ``dry_run`` would be a real import."""
    problems = {name: ["Unknown field."] for name in (*request.form, *request.files) if name != "file"}
    files = request.files.getlist("file")
    if len(files) != 1:
        problems["file"] = ["Given more than once." if files else "Missing data for required field."]
    if problems:
        raise errors.ValidationFailed(details={"form": problems})
    return files[0]
