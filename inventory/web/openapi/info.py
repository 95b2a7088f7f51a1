"""General information in the OpenAPI document."""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING

from inventory.web.openapi.operations import SECURITY_SCHEMES

if TYPE_CHECKING:
    from inventory.web.openapi.json_types import JsonObject

DESCRIPTION = """\
Manages categories, products and their stock. Every stock change is a row in an append-only ledger. The quantity of a
product is the sum of its ledger rows and never falls below zero.

**Requests.** Request bodies are JSON in UTF-8, sent as `application/json`. Only the import takes files. Unknown fields
and unknown query parameters are rejected with 422. PUT and PATCH both update only the fields that are sent. Fields
marked `readOnly` are accepted and ignored.

**Values.** Times are UTC, in ISO 8601 with offset. Money is a JSON number with up to 4 decimals, stored and summed
exactly. Leading and trailing white space is removed from text. Control characters are rejected, except line breaks and
tabs in multi-line text. SKUs and category names are unique, case-insensitive.

**Lists** are bare arrays of up to `limit` rows. The `Link` header contains the URL of the next page as `rel="next"`
and of the previous page as `rel="prev"`. Prefer these links to `skip`: they stay exact while rows are added.
`include_total=true` adds `X-Total-Count`. `sort` takes column names, with `-` for descending order.

**Access.** Requests need an API key, sent as `Authorization: Bearer <key>` or `X-API-Key: <key>`, unless the operator
has switched keys off. Each operation requires one scope of the key: `read`, `stock`, `catalogue` or `admin`. No scope
includes another one. A request of the catalogue that also changes stock requires `stock`, too. A missing or invalid key
returns 401 `unauthorized`, a missing scope 403 `insufficient_scope`. The name of the key is the `actor` of the ledger
rows that it writes. Idempotency keys belong to the API key, so two clients can use the same ones.

**Browsers.** Pages of other origins can use the API if the operator has listed their origin in
`INVENTORY_CORS_ORIGINS`. Other cross-origin writes are rejected with 403 `cross_site_request`.

**Errors** have one format: `{"error": "insufficient_stock", "message": "Cannot sell 20 units: only 10 available",
"code": 400}`. `error` is a stable slug for programs, `message` is for people, `code` is the HTTP status. Some errors
have `details`, with a schema that depends on the slug. Unknown paths return 404 `not_found`. Unsupported methods
return 405 `method_not_allowed` with an `Allow` header.

**Retries.** Send an `Idempotency-Key` with every request that changes stock. If the response is lost, send the same
request with the same key again. It takes effect once, and the first response is returned with `Idempotent-Replayed:
true`. The same key with a different request returns 422 `idempotency_key_reused`. 503 responses and 409
`idempotency_in_progress` have `Retry-After`, in seconds.

**Concurrent changes.** Products and categories have an `ETag`. Send it as `If-None-Match` to get 304 if nothing has
changed. Send it as `If-Match` to change a resource only if it has not changed since; otherwise the response is 412.
With `expected_quantity` a movement is recorded only if the stock equals it; otherwise the response is 409
`stale_quantity`.

**Request ids.** Every response has an `X-Request-ID` for the operator's log. A request can send its own: 1 to 128
letters, digits, dots, underscores and hyphens. Any other one is replaced. A `traceparent` (W3C Trace Context) is
logged.

**Dry runs.** `dry_run=true` validates a movement or an import completely and returns the result, but records nothing.

**Files.** CSV files are UTF-8 with a header row, commas, and CRLF or LF. Product exports can be imported again. JSON
Lines files have one object of this API per line.
"""

OPTIONS: JsonObject = {
    "info": {
        "description": DESCRIPTION,
        "license": {"name": "MIT", "identifier": "MIT"},
        "contact": {"name": "The inventory contributors"},
    },
    "servers": [{"url": "/", "description": "This service"}],
    "components": {"securitySchemes": SECURITY_SCHEMES},
}


def project_version() -> str:
    """The version of the installed distribution, or the one in pyproject.toml in a checkout."""
    try:
        return version("inventory")
    except PackageNotFoundError:
        pyproject = Path(__file__).parents[3] / "pyproject.toml"
        return str(tomllib.loads(pyproject.read_text())["project"]["version"])


def settings() -> JsonObject:
    """flask-smorest's settings of the document."""
    return {
        "API_TITLE": "Inventory",
        "API_VERSION": project_version(),
        "OPENAPI_VERSION": "3.1.0",
        "API_SPEC_OPTIONS": OPTIONS,
    }
