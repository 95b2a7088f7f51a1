"""Bad input: for a schema, every JSON text and every query text that it has to refuse."""

from __future__ import annotations

import base64
import gzip
import re
from typing import TYPE_CHECKING, Any

import orjson

from tests.contract import DOCUMENT, resolve
from tests.valid_requests import file_of, json_type, kind_of, one_value

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.valid_requests import ValidRequest

    Schema = Mapping[str, Any]

HOSTILE = "a hostile value"
HUGE = str(10**400)
DEEP_ARRAY, DEEP_OBJECT = "[" * 100_000 + "]" * 100_000, '{"a":' * 100_000 + "1" + "}" * 100_000
FULL_WIDTH_ONE = "\uff11"
BOMB = "💣"
CONTROL_CHARACTERS = ["\0", "a\0b", "\x07", "\x1b[31m", "\x7f", "\x9f"]
# What an answer would hold that repeats a rejected value.
ECHO = re.compile(rf"{HOSTILE}|{BOMB}|x{{30}}|A{{30}}|0{{30}}|9{{30}}|{2**63}|{2**64}")

# Wrong in any place: no JSON, or more than the numbers and the stack of a machine hold.
NO_JSON = ["", "NaN", "Infinity", "-Infinity", "1e400", HUGE, "01", "'x'", "[", '"\\ud800"', '"\x00"', "undefined"]
NO_JSON += [DEEP_ARRAY, DEEP_OBJECT]
# Values of every JSON type; wrong wherever another type is asked for.
JSON_SAMPLES = {
    "null": ["null"],
    "boolean": ["true", "false"],
    "integer": ["5"],
    "number": ["5.5", "-1e-7"],
    "string": [f'"{HOSTILE}"', '"5"', '"true"', '""'],
    "array": ["[]", f'["{HOSTILE}"]', "[[1]]"],
    "object": ["{}", f'{{"{HOSTILE}": "{HOSTILE}"}}'],
}
ACCEPTED_SAMPLES = {"number": {"number", "integer"}}

NO_NUMBER = ["", " ", HOSTILE, "0x10", "1_000", "1,000", "½", "NaN", "Infinity", "-", "--1", "+1", "null", "true"]
NO_NUMBER += [FULL_WIDTH_ONE, "1\0", "1;", "1'--", "[1]", "1e3", str(2**63), str(2**64), str(-(2**63) - 1), HUGE]
NO_DATE = ["", " ", HOSTILE, "now", "0", "1e9", "2024", "1711111111", "1712121122345", HUGE, "2024-02-30", "2024-13-01"]
NO_DATE += [
    "10000-01-01",
    "0000-01-01",
    "2024-01-01\0",
    "2024-01-01x10:00",
    f"2024-01-0{FULL_WIDTH_ONE}",
    "T " * 50_000,
]
NO_DATE += ["2024-01-01T25:00", "2024-01-01T00:00+25:00", "0001-01-01T00:00+23:59", "9999-12-31T23:59-23:59"]
NO_ORDER = ["", ",", "-", "id,", "id,id", "id,-id", "--id", "ID", "id desc", "version", "name_folded", "id\0", HOSTILE]
# By the kinds that tests/valid_requests.py knows.
QUERY_TEXTS = {
    "integer": [*NO_NUMBER, "1.5", "1.0"],
    "number": [*NO_NUMBER, "1,5", ".5", "1.", "1.00001", "-0.0001", "9" * 40, "1." + "1" * 40, "1e400"],
    "boolean": ["", " ", HOSTILE, "2", "-1", "on", "null", "tru", "true\0", HUGE],
    "choice": ["", " ", HOSTILE, "SALE", "Csv", "null", "sale\0", "x" * 5_000],
    "date-time": NO_DATE,
    "sort": NO_ORDER,
    "cursor": ["", " ", "x", HOSTILE, BOMB, "\0", "=", "e30=", "W10=", "A" * 3_999],
    "string": CONTROL_CHARACTERS,
}

BAD_IDS = ["0", "4000000", str(2**63 - 1), str(2**63), str(2**64), HUGE, "-1", "+1", "1.0", "1e3", "0x1", "1 ", " "]
BAD_IDS += ["00000000-0000-4000-8000-000000000000", "0" * 32, "null", "%", "\0", "1\0", "'", "1;", "1'--", BOMB]
BAD_IDS += [FULL_WIDTH_ONE, "\ud800", "..", "../1", "x" * 5_000]

STRAY_PARAMETERS = ["", " ", "hostile", "LIMIT", "limit[]", "limit ", "_method", "\0", "é"]

CURSOR_VALUES: list[Any] = [None, True, -1, 0.5, 2**63, 2**64 - 1, 1e308, "", "x", "\0", [], {}, [0, [1], "F"]]
CURSOR_VALUES += ["NaN", "1E-100000", "0E+999999", "1E+30", "2024-01-01", "0001-01-01T00:00+23:59"]
CURSOR_VALUES += ["9999-12-31T23:59-23:59", "2024-01-01T00:00+00:00:00.1"]

MEDIA_TYPES = [None, "", "text/plain", "text/html", "application/xml", "application/x-www-form-urlencoded", "json"]
MEDIA_TYPES += [
    "application/json-patch+json",
    "application/vnd.api+json",
    "application/jsonp",
    "application/octet-stream",
    "application/" + "x" * 5_000,
]
CHARSETS = ["utf-16", "utf-32", "utf-7", "latin-1", "us-ascii", HOSTILE.replace(" ", "-")]
CODINGS = ["gzip", "deflate", "br", "zstd", "identity, gzip", HOSTILE, "", "x" * 5_000]
NOT_UTF_8 = [b"\xff", b"\xff\xfe", b"\xc3", b"\xc0\xaf", b"\xed\xa0\x80", b"\xf4\x90\x80\x80"]


def hostile_json(schema: Schema, valid: Any) -> Iterator[tuple[str, str]]:
    """What is wrong, and a JSON text with that: ``valid``, which the schema accepts, with one thing about it broken."""
    schema = resolve(schema)
    kind = json_type(schema)
    accepted = ACCEPTED_SAMPLES.get(kind, {kind}) | ({"null"} if "null" in schema["type"] else set())
    samples = [text for name, texts in JSON_SAMPLES.items() if name not in accepted for text in texts]
    yield from ((text, text) for text in [*NO_JSON, *samples, *hostile_scalars(kind, schema)])
    if kind == "object":
        yield from hostile_objects(schema, valid)
    if kind == "array":
        yield from hostile_arrays(schema, valid)


def hostile_scalars(kind: str, schema: Schema) -> Iterator[str]:
    if kind == "boolean":
        yield from ("0", "1")
    elif kind == "string":
        yield from (orjson.dumps(word).decode() for word in hostile_strings(schema))
    elif kind in {"integer", "number"}:
        yield from (str(2**63), str(2**64), str(-(2**63) - 1), "1e30", "-1e30")
        yield from (str(schema.get("minimum", 0) - 1), str(schema["maximum"] + 1))
        yield from ["0.00001"] if kind == "number" else []
        yield from ["0", "-0.0", "1e-400"] if "exclusiveMinimum" in schema else []


def hostile_strings(schema: Schema) -> Iterator[str]:
    yield from CONTROL_CHARACTERS
    if "enum" in schema:
        yield from ("", " ", HOSTILE, schema["enum"][0].upper())
    else:
        yield from ("x" * (schema["maxLength"] + 1), BOMB * (schema["maxLength"] + 1), "x" * 100_000)
    if "minLength" in schema:
        yield from ("", " ", "\u3000")


def hostile_objects(schema: Schema, valid: Any) -> Iterator[tuple[str, str]]:
    members = {name: orjson.dumps(value).decode() for name, value in valid.items()}
    yield "a member too many", json_object(members | {"surplus": f'"{HOSTILE}"'})
    if not schema["properties"].get("id", {}).get("readOnly"):
        yield "an id of its own", json_object(members | {"id": "1"})
    for name in schema.get("required", []):
        yield f"no {name}", json_object({key: value for key, value in members.items() if key != name})
    for name in valid:
        for what, text in hostile_json(schema["properties"][name], valid[name]):
            yield f"{name}: {what}", json_object(members | {name: text})


def hostile_arrays(schema: Schema, valid: Any) -> Iterator[tuple[str, str]]:
    items = [orjson.dumps(item).decode() for item in valid]
    yield "too many items", json_array(items * (schema["maxItems"] // len(items) + 1))
    yield "a million items", json_array(["1"] * 1_000_000)
    if "minItems" in schema:
        yield "no items", json_array([])
    for position, item in enumerate(valid):
        for what, text in hostile_json(schema["items"], item):
            yield f"[{position}] {what}", json_array([*items[:position], text, *items[position + 1 :]])


def json_object(members: Mapping[str, str]) -> str:
    return "{" + ", ".join(f'"{name}": {value}' for name, value in members.items()) + "}"


def json_array(items: list[str]) -> str:
    return f"[{', '.join(items)}]"


# Texts that each header may not hold, and the slug that refuses them. Any If-None-Match will do: it only saves a body.
NO_KEY = ["", " ", "a b", "a,b", "é", '"', '""', '"a', '"a b"', '"a", "b"', "x" * 256, '"' + "x" * 256 + '"']
HEADERS = {
    "Idempotency-Key": ("invalid_idempotency_key", NO_KEY),
    "If-Match": ("precondition_failed", ['"0"', "0", 'W/"0"', '"', "é", '"a", "b"', HOSTILE, '"' + "x" * 5_000 + '"']),
    "If-None-Match": ("", []),
}


def no_json_in_utf_8(body: bytes) -> list[bytes]:
    """A valid JSON body cut off, run on, in another encoding, and with its punctuation wrong."""
    text = body.decode()
    cut_off = [body[:length] for length in (0, 1, len(body) // 2, len(body) - 1)]
    run_on = [body + more for more in (body, b"}", b",", b"\0", b"\xff")]
    recoded = [text.encode(encoding) for encoding in ("utf-16", "utf-16-be", "utf-32", "utf-8-sig", "cp037")]
    stray = [body.replace(b'"', b'"' + bytes_, 3) for bytes_ in NOT_UTF_8]
    altered = [body.replace(b'"', b"'"), body.replace(b"}", b",}"), body.replace(b":", b"="), gzip.compress(body)]
    return [*cut_off, *run_on, *recoded, *stray, *altered, *NOT_UTF_8, b" ", b"name=Nuts"]


def wrong_wrappings(valid: ValidRequest) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """A valid body announced as what is not accepted: the expected slug, what is wrong, and the changes."""
    for media_type in MEDIA_TYPES:
        yield "unsupported_media_type", f"sent as {media_type}", {"content_type": media_type}
    for charset in CHARSETS:
        content_type = f"{valid.content_type}; charset={charset}"
        yield "unsupported_encoding", f"sent in {charset}", {"content_type": content_type}
    for coding in CODINGS:
        changes = {"body": gzip.compress(valid.body), "headers": {"Content-Encoding": coding}}
        yield "unsupported_encoding", f"compressed by {coding}", changes


def hostile_texts(parameter: Mapping[str, Any]) -> list[str]:
    """Every text that is wrong for a query parameter, or for a cell of a file. Raises KeyError for an unknown kind."""
    schema = one_value(parameter["schema"])
    texts = list(QUERY_TEXTS[kind_of(parameter)])
    texts += [str(schema["minimum"] - 1)] if "minimum" in schema else []
    texts += [str(schema["maximum"] + 1)] if "maximum" in schema else []
    texts += [letter * (schema["maxLength"] + 1) for letter in ("x", BOMB)] if "maxLength" in schema else []
    texts += ["", " "] if "minLength" in schema else []
    return texts


def tampered(cursor: str) -> Iterator[tuple[str, bool]]:
    """Cursors made from a valid one, and whether each may still be valid."""
    content = orjson.loads(base64.urlsafe_b64decode(cursor + "=="))
    wrong: list[Any] = [None, {}, [], 5, "id", content[:-1], [*content, 1]]
    yield from ((encoded(changed), False) for changed in wrong)
    for changed in with_one_value_changed(content):
        yield encoded(changed), True


def with_one_value_changed(content: list[Any]) -> Iterator[list[Any]]:
    for position, held in enumerate(content):
        changes = [*with_one_value_changed(held), held[:-1], [*held, 1]] if isinstance(held, list) else []
        for value in [*CURSOR_VALUES, *changes]:
            yield [*content[:position], value, *content[position + 1 :]]


def encoded(content: Any) -> str:
    return base64.urlsafe_b64encode(orjson.dumps(content)).rstrip(b"=").decode()


def column_schemas() -> dict[str, Schema]:
    """What each column of a product file holds: a field of the same name, and the category's name."""
    schemas = DOCUMENT["components"]["schemas"]
    columns = {name: schema for name, schema in schemas["ProductIn"]["properties"].items() if name != "category_id"}
    expected = {**schemas["CountIn"]["properties"]["expected_quantity"], "type": ["integer", "null"]}
    return columns | {"category": schemas["CategoryIn"]["properties"]["name"], "expected_quantity": expected}


def files_with_a_wrong_cell() -> Iterator[tuple[str, str, bytes]]:
    """Column, cell and file. An empty cell is null, which is right where null is allowed."""
    for column, schema in column_schemas().items():
        for text in hostile_texts({"name": column, "schema": schema}):
            if text.strip() or "null" not in schema["type"]:
                yield column, text, file_of(**{column: text})


ROW = file_of().splitlines()[-1]
FILES_WITHOUT_SENSE = {
    "nothing": b"",
    "blank lines": b"\n\n\n",
    "no sku": b"name,price\nWasher,1\n",
    # The one thing that is repeated, shortened: without its heading nobody finds a column.
    "an unknown column": b"sku,name,colour\nA,B,C\n",
    "a long unknown column": b"sku,name," + b"x" * 5_000 + b"\nA,B,C\n",
    "a column twice": b"sku,name,NAME\nA,B,C\n",
    "a row too long": file_of() + ROW + b",surplus\n",
    "a row too short": file_of() + b"A,B\n",
    "the same SKU twice": file_of() + ROW.lower() + b"\n",
    "an open quote": file_of() + b'"A,B',
    "text after a quote": file_of() + b'"A"B,C\n',
    "a row of two megabytes": b"sku,name\nA," + b"x" * 2_000_000,
    "a header of two megabytes": b"sku," * 500_000,
    "NUL bytes": bytes(1_000),
    "NUL in the header": b"sku,na\0me\nA,B\n",
    "JSON": b'[{"sku": "A"}]',
    "a new product without a price": b"sku,name,category\nA,B,Nuts\n",
    "a price below its cost": file_of(price=1, cost=2),
    "a cost above the price that is stored": b"sku,cost\nBOLT-8,1000\n",
}

PART = b'--b\r\nContent-Disposition: form-data; name="%b"%b\r\n\r\n%b\r\n--b--\r\n'
FORM = "multipart/form-data; boundary=b"
NAMED = b'; filename="products.csv"'


def forms_without_a_file(file: bytes) -> dict[str, bytes]:
    return {
        "no part": b"",
        "no boundary": file,
        "a field of another name": PART % (b"upload", NAMED, file),
        "a part without a name": (PART % (b"", NAMED, file)).replace(b'; name=""', b""),
        "cut off in its head": (PART % (b"file", NAMED, file))[:50],
        "nine parts": b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n' * 9 + b"--b--",
    }
