from __future__ import annotations

import base64
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import orjson
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete
from werkzeug.test import EnvironBuilder, run_wsgi_app

from inventory import create_app
from inventory.database.base import db
from inventory.database.types import fold
from inventory.models.product import Product
from tests.builders import (
    body,
    category,
    error_of,
    insert_products,
    insert_transactions,
    invalid_fields,
    listed,
    product,
    transaction,
)
from tests.clients import HttpClient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from flask import Flask
    from flask.testing import FlaskClient

    from tests.servers import Gunicorn

Row = dict[str, Any]
MANY = 23
YEARS = datetime(1, 1, 2), datetime(9999, 12, 30)  # noqa: DTZ001 - Hypothesis wants its bounds without a zone
NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)
# The sort key of each column in Python. On both engines, text sorts by the code points of its case-folded form.
KEYS: dict[str, Callable[[Row], Any]] = {
    "id": lambda row: row["id"],
    "sku": lambda row: fold(row["sku"]),
    "name": lambda row: fold(row["name"]),
    "price": lambda row: row["price"],
    "quantity_on_hand": lambda row: row["quantity_on_hand"],
    "reorder_point": lambda row: row["reorder_point"],
    "created_at": lambda row: row["created_at"],
    "updated_at": lambda row: row["updated_at"],
}


def links(client: FlaskClient, url: str) -> tuple[list[Row], dict[str, str]]:
    """The rows of a page, and its Link URLs by relation."""
    response = client.get(url)
    found = re.findall(r'<([^>]*)>; rel="(\w+)"', response.headers.get("Link", ""))
    return listed(response), {rel: address for address, rel in found}


def walk(client: FlaskClient, url: str, rel: str = "next") -> Iterator[list[Row]]:
    """The page at ``url`` and those that follow it by links of one relation."""
    following: str | None = url
    while following:
        rows, neighbours = links(client, following)
        yield rows
        following = neighbours.get(rel)


def ids(pages: Iterator[list[Row]] | list[list[Row]]) -> list[int]:
    return [row["id"] for rows in pages for row in rows]


def in_order(rows: list[Row], sort: str) -> list[Row]:
    """Rows sorted in Python by a ``sort`` parameter, with id as the tie-breaker."""
    terms = sort.split(",")
    if "id" not in {term.removeprefix("-") for term in terms}:
        terms.append("id")
    for term in reversed(terms):
        rows = sorted(rows, key=KEYS[term.removeprefix("-")], reverse=term.startswith("-"))
    return rows


def cursor_of(url: str) -> str:
    return parse_qs(urlsplit(url).query)["cursor"][0]


def forged(names: Any, values: Any, *, backward: Any = False) -> str:
    """A cursor of the product list with this content. A list of names is prefixed with the list's own name."""
    order = ["Product.id", *names] if isinstance(names, list) else names
    return base64.urlsafe_b64encode(orjson.dumps([order, backward, values])).rstrip(b"=").decode()


def test_forged_cursor_with_valid_content_is_accepted(client: FlaskClient) -> None:
    first, second = product(client), product(client)
    cursor = forged(["id"], [first["id"]])
    assert [row["id"] for row in listed(client.get(f"/products?cursor={cursor}"))] == [second["id"]]


@pytest.fixture
def shelf(app: Flask, client: FlaskClient) -> list[Row]:
    """Products with many ties in every column but id and sku."""
    names = ["bolt", "Bolt", "BOLT", "nut", "straße", "STRASSE", "Ärmel", "zinc"]
    rows = [
        {
            "sku": f"{'sS'[number % 2]}ku-{(number * 7) % MANY:02}",
            "name": names[number % 8],
            "price": Decimal(number % 3 + 1) / 10,
            "quantity_on_hand": number % 4,
            "reorder_point": number % 2,
            "created_at": NOON + timedelta(microseconds=number % 5),
            "updated_at": NOON + timedelta(days=number % 2),
        }
        for number in range(MANY)
    ]
    insert_products(app, category(client)["id"], rows)
    return listed(client.get("/products"))


@pytest.mark.parametrize(
    "sort",
    [
        *KEYS,
        *(f"-{name}" for name in KEYS),
        "name,-price",
        "-name,price",
        "-reorder_point,name,-created_at",
        "price,-id",
        "-quantity_on_hand,-updated_at,sku",
        "-reorder_point,quantity_on_hand,-price,name,-sku,-created_at,updated_at",
    ],
)
def test_next_and_prev_links_visit_the_same_pages_in_order(client: FlaskClient, shelf: list[Row], sort: str) -> None:
    there = list(walk(client, f"/products?sort={sort}&limit=4"))
    assert [row for rows in there for row in rows] == in_order(shelf, sort)
    assert [len(rows) for rows in there] == [4, 4, 4, 4, 4, 3]
    last = f"/products?sort={sort}&limit=4"
    while following := links(client, last)[1].get("next"):
        last = following
    assert list(walk(client, last, "prev")) == there[::-1]


def test_transaction_pages_are_newest_first_by_default(client: FlaskClient) -> None:
    bolt, nut = product(client), product(client)
    for number in range(10):
        transaction(client, (bolt, nut)[number % 2]["id"], "purchase", 1)
    everything = listed(client.get("/transactions"))
    assert [row["id"] for row in everything] == list(range(10, 0, -1))
    for address in ("/transactions", f"/transactions/product/{bolt['id']}", "/transactions?transaction_type=purchase"):
        glue = "&" if "?" in address else "?"
        pages = list(walk(client, f"{address}{glue}limit=3"))
        assert [row for rows in pages for row in rows] == listed(client.get(address))
        assert max(len(rows) for rows in pages) == 3


def test_transaction_pages_with_equal_timestamps_miss_no_row(app: Flask, client: FlaskClient) -> None:
    bolt = product(client)
    insert_transactions(app, bolt["id"], [NOON] * 7)
    for sort in ("created_at", "-created_at", "created_at,-id", "-created_at,-id"):
        there = list(walk(client, f"/transactions?sort={sort}&limit=2"))
        assert sorted(ids(there)) == list(range(1, 8))


def test_low_stock_pages_are_ordered_by_shortage(client: FlaskClient) -> None:
    for quantity, reorder_point in ((5, 5), (0, 3), (1, 4), (9, 10), (0, 3), (4, 4), (7, 6)):
        product(client, quantity_on_hand=quantity, reorder_point=reorder_point)
    there = list(walk(client, "/products/low-stock?limit=2"))
    assert [row for rows in there for row in rows] == listed(client.get("/products/low-stock"))
    assert [row["quantity_on_hand"] - row["reorder_point"] for rows in there for row in rows] == [-3, -3, -3, -1, 0, 0]


def test_category_pages_follow_the_sort_order(client: FlaskClient) -> None:
    for name in ("b", "A", "ß", "c", "Ä"):
        category(client, name=name)
    for sort in ("id", "-name", "created_at", "-created_at,name"):
        there = list(walk(client, f"/categories?sort={sort}&limit=2"))
        assert [row for rows in there for row in rows] == listed(client.get(f"/categories?sort={sort}"))
        assert [len(rows) for rows in there] == [2, 2, 1]


ROWS = st.fixed_dictionaries(
    {
        "name": st.text("aAbBßẞäÄςΣ🔩 -%_'", min_size=1, max_size=3),
        "price": st.decimals("0.0001", "9999999999.9999", places=4) | st.sampled_from([Decimal(1), Decimal(2)]),
        "quantity_on_hand": st.integers(0, 3) | st.integers(0, 10**12),
        "reorder_point": st.integers(0, 2),
        "created_at": st.datetimes(*YEARS, timezones=st.just(UTC))
        | st.sampled_from([NOON, NOON + timedelta(microseconds=1)]),
    }
)
SORTS = (
    st.lists(st.sampled_from(list(KEYS)), min_size=1, unique=True)
    .flatmap(lambda names: st.tuples(*(st.sampled_from([name, f"-{name}"]) for name in names)))
    .map(",".join)
)


@pytest.mark.slow
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(rows=st.lists(ROWS, max_size=12), sort=SORTS, limit=st.integers(1, 5))
@example(rows=[], sort="id", limit=1)
def test_pages_match_sorting_in_python(app: Flask, client: FlaskClient, rows: list[Row], sort: str, limit: int) -> None:
    with app.app_context():
        db.session.execute(delete(Product))
        db.session.commit()
    category_id = (listed(client.get("/categories")) or [category(client)])[0]["id"]
    insert_products(app, category_id, rows)
    expected = in_order(listed(client.get("/products?limit=1000")), sort)
    assert listed(client.get(f"/products?sort={sort}&limit=1000")) == expected
    assert [row for page in walk(client, f"/products?sort={sort}&limit={limit}") for row in page] == expected


@pytest.mark.parametrize("sort", ["name", "-name", "price,-name", "-created_at"])
def test_pages_visit_rows_once_despite_inserts_and_deletes(
    app: Flask, client: FlaskClient, shelf: list[Row], sort: str
) -> None:
    category_id = shelf[0]["category_id"]
    to_delete = [row["id"] for row in shelf[::3]]
    seen: list[int] = []
    for number, rows in enumerate(walk(client, f"/products?sort={sort}&limit=3")):
        seen += [row["id"] for row in rows]
        # One row before every position, one after every position, one in the middle, and one at the position itself.
        insert_products(
            app,
            category_id,
            [
                {"name": "!first", "price": Decimal("0.0001"), "created_at": NOON - timedelta(days=1)},
                {"name": "zzz", "price": Decimal(9), "created_at": NOON + timedelta(days=1)} if number < 3 else {},
                {"name": "nut", "price": Decimal("0.2"), "created_at": NOON + timedelta(microseconds=2)},
            ],
        )
        if to_delete:
            client.delete(f"/products/{to_delete.pop()}")
        client.delete(f"/products/{rows[-1]['id']}")
    remaining = {row["id"] for row in listed(client.get("/products?limit=1000"))}
    assert len(seen) == len(set(seen))
    assert remaining & {row["id"] for row in shelf} <= set(seen)


def test_prev_link_works_after_its_boundary_rows_are_deleted(client: FlaskClient, shelf: list[Row]) -> None:
    order = [row["id"] for row in in_order(shelf, "name")]
    second = links(client, "/products?sort=name&limit=4")[1]["next"]
    back = links(client, second)[1]["prev"]
    for product_id in (order[3], order[4], order[5]):
        client.delete(f"/products/{product_id}")
    rows, neighbours = links(client, back)
    assert [row["id"] for row in rows] == order[:3]
    assert "prev" not in neighbours
    assert [row["id"] for row in links(client, neighbours["next"])[0]] == order[6:10]


@pytest.mark.usefixtures("shelf")
def test_link_header_contains_only_existing_pages(client: FlaskClient) -> None:
    first, following = links(client, f"/products?limit={MANY - 1}")
    assert (len(first), set(following)) == (MANY - 1, {"next"})
    assert links(client, following["next"])[1].keys() == {"prev"}
    assert links(client, f"/products?limit={MANY}")[1] == {}
    assert links(client, "/products?search=nothing")[1] == {}


def test_links_keep_filters_sort_limit_and_include_total(client: FlaskClient, shelf: list[Row]) -> None:
    url = "/products?search=STRA%C3%9FE&sort=-sku&limit=2&include_total=true&is_active=true"
    following = links(client, url)[1]["next"]
    query = parse_qs(urlsplit(following).query)
    assert urlsplit(following).path == "/products"
    assert query.pop("cursor")
    assert query == parse_qs(urlsplit(url).query)
    expected = [row for row in in_order(shelf, "-sku") if "strasse" in fold(row["name"])]
    assert [row for rows in walk(client, url) for row in rows] == expected


def test_links_keep_repeated_parameters(client: FlaskClient, shelf: list[Row]) -> None:
    chosen = shelf[2:9]
    url = "/products?limit=2&" + "&".join(f"sku={row['sku']}" for row in chosen)
    assert [row for rows in walk(client, url) for row in rows] == chosen
    assert [row for rows in walk(client, f"{url}&skip=5", "prev") for row in rows] != []


@pytest.mark.usefixtures("shelf")
@pytest.mark.parametrize("address", ["/products", "/transactions/feed", "/products/feed"])
@pytest.mark.parametrize("host", ["stock.example.com:8443", "[::1]:8000", "stock_service"])
def test_links_are_absolute(client: FlaskClient, address: str, host: str) -> None:
    https = {"wsgi.url_scheme": "https"}
    response = client.get(f"{address}?limit=2", headers={"Host": host}, environ_overrides=https)
    assert response.headers["Link"].startswith(f"<https://{host}{address}?limit=2")


@pytest.mark.usefixtures("shelf")
def test_links_use_host_and_forwarded_proto_behind_a_proxy(server: Gunicorn) -> None:
    forwarded = {"Host": "stock.example.com", "X-Forwarded-Proto": "https"}
    with HttpClient(server.url) as connection:
        answer = connection.request("GET", "/products?limit=2", headers=forwarded)
    assert answer.headers["Link"].startswith("<https://stock.example.com/products?limit=2&cursor=")


@pytest.mark.usefixtures("shelf")
def test_links_are_paths_without_host_header(app: Flask) -> None:
    environ = EnvironBuilder("/products?limit=2").get_environ() | {"SERVER_PROTOCOL": "HTTP/1.0"}
    del environ["HTTP_HOST"]
    _body, status, headers = run_wsgi_app(app, environ)
    assert status == "200 OK"
    assert headers["Link"].startswith("</products?limit=2&cursor=")


def test_skip_offsets_the_page_and_links_both_ways(client: FlaskClient, shelf: list[Row]) -> None:
    order = [row["id"] for row in in_order(shelf, "-price,name")]
    rows, neighbours = links(client, "/products?sort=-price,name&skip=8&limit=5")
    assert [row["id"] for row in rows] == order[8:13]
    assert ids(walk(client, neighbours["next"])) == order[13:]
    back = list(walk(client, neighbours["prev"], "prev"))
    assert [row["id"] for row in back[0]] == order[3:8]
    assert [row["id"] for row in back[1]] == order[:3]
    assert len(back) == 2


@pytest.mark.parametrize("skip", [1, 3, 4, 7, 13])
def test_prev_links_after_skip_visit_skipped_rows_once(client: FlaskClient, shelf: list[Row], skip: int) -> None:
    back = links(client, f"/products?skip={skip}&limit=4")[1]["prev"]
    before = [row for rows in reversed(list(walk(client, back, "prev"))) for row in rows]
    assert ids([before]) == [row["id"] for row in shelf[:skip]]


@pytest.mark.usefixtures("shelf")
def test_skip_past_the_end_returns_an_empty_page(client: FlaskClient) -> None:
    for skip in (MANY, 100_000):
        rows, neighbours = links(client, f"/products?skip={skip}")
        assert (rows, set(neighbours)) == ([], {"prev"})


@pytest.mark.parametrize("path", ["/products", "/categories", "/transactions"])
def test_skip_above_the_maximum_is_rejected_and_names_the_link_header(
    client: FlaskClient, database_url: str, path: str
) -> None:
    for skip in (100_001, 10**9):
        answer = client.get(f"{path}?skip={skip}")
        assert invalid_fields(answer) == {"query": {"skip"}}
        assert "at most 100000" in answer.text
        assert "Link" in answer.text
    other = create_app({"DATABASE_URL": database_url, "INVENTORY_MAX_SKIP": 1})
    found = [other.test_client().get(f"{path}?skip={skip}").status_code for skip in (0, 1, 2)]
    with other.app_context():
        db.engine.dispose()
    assert found == [200, 200, 422]


def test_cursor_can_be_combined_only_with_skip_0(client: FlaskClient, shelf: list[Row]) -> None:
    following = links(client, "/products?limit=4")[1]["next"]
    assert ids([links(client, f"{following}&skip=0")[0]]) == [row["id"] for row in shelf[4:8]]
    assert invalid_fields(client.get(f"{following}&skip=1")) == {"query": {"cursor"}}


def test_limit_defaults_to_100_with_maximum_1000(app: Flask, client: FlaskClient) -> None:
    insert_products(app, category(client)["id"], [{} for _ in range(1001)])
    assert len(listed(client.get("/products"))) == 100
    assert len(listed(client.get("/products?limit=1000"))) == 1000
    assert len(listed(client.get("/products?limit=1"))) == 1
    assert invalid_fields(client.get("/products?limit=1001")) == {"query": {"limit"}}
    assert [len(rows) for rows in walk(client, "/products?limit=1000")] == [1000, 1]


def test_total_count_respects_filters_on_every_page(client: FlaskClient, shelf: list[Row]) -> None:
    wanted = sum(row["price"] == 0.1 for row in shelf)
    url = "/products?max_price=0.1&limit=3&include_total=true"
    following = links(client, url)[1]["next"]
    for address in (url, following, f"{url}&skip=5", f"{url}&skip=500"):
        assert client.get(address).headers["X-Total-Count"] == str(wanted)
    for address in ("/transactions", "/categories", "/products/low-stock"):
        assert client.get(f"{address}?include_total=true").headers["X-Total-Count"].isdecimal()


@pytest.mark.usefixtures("shelf")
def test_total_count_is_omitted_by_default(client: FlaskClient) -> None:
    for query in ("", "?include_total=false"):
        assert "X-Total-Count" not in client.get(f"/products{query}").headers


@pytest.mark.usefixtures("shelf")
def test_cursor_of_another_sort_order_is_rejected(client: FlaskClient) -> None:
    cursor = cursor_of(links(client, "/products?sort=name&limit=2")[1]["next"])
    for sort in ("id", "-name", "name,price", "name,-id", "sku", "created_at"):
        answer = client.get("/products", query_string={"sort": sort, "cursor": cursor})
        assert error_of(answer) == (400, "invalid_cursor")
    assert error_of(client.get(f"/transactions?cursor={cursor}")) == (400, "invalid_cursor")


@pytest.mark.usefixtures("shelf")
def test_cursor_of_another_list_is_rejected(client: FlaskClient) -> None:
    category(client)
    category(client)
    cursor = cursor_of(links(client, "/categories?limit=1")[1]["next"])
    assert error_of(client.get(f"/products?cursor={cursor}")) == (400, "invalid_cursor")


MALFORMED = {
    "empty": "",
    "not Base64": "!!!!",
    "not ASCII": "ä",
    "one character": "a",
    "binary": base64.urlsafe_b64encode(bytes(range(256))).decode(),
    "a number": base64.urlsafe_b64encode(b"5").decode(),
    "an object": base64.urlsafe_b64encode(b'{"a": 1, "b": 2, "c": 3}').decode(),
    "too deep": base64.urlsafe_b64encode(b"[" * 2000).decode(),
    "truncated": forged(["id"], [1])[:-4],
    "no direction": forged(["id"], [1], backward=None),
    "direction as a number": forged(["id"], [1], backward=1),
    "names nested": forged([["id"]], [1]),
    "names of another type": forged("id", [1]),
    "no values": forged(["id"], []),
    "two values": forged(["id"], [1, 2]),
    "values of another type": forged(["id"], 1),
    "id as text": forged(["id"], ["1"]),
    "id as a boolean": forged(["id"], [True]),
    "id as null": forged(["id"], [None]),
    "id as a fraction": forged(["id"], [1.5]),
    "id past 64 bits": forged(["id"], [2**63]),
    "id far past 64 bits": base64.urlsafe_b64encode(b'[["id"],false,[1e300]]').decode(),
}
BAD_VALUES: dict[str, list[Any]] = {
    "name": [1, None, ["a"], "a\0b", {"a": "b"}],
    "price": ["", "x", "NaN", "sNaN", "Infinity", "1e400", "1e-999999", "0.00001", "1" * 60, None, {}],
    "created_at": [
        5,
        None,
        "",
        "x",
        "2024-01-01",
        "2024-01-01T00:00:00",
        "0001-01-01T00:00:00+14:00",
        "9999-12-31T23:59:59-14:00",
    ],
    "quantity_on_hand": ["1", True, 1.5, None, -(2**63)],
}


def test_malformed_cursor_is_rejected(client: FlaskClient) -> None:
    answers = {
        name: error_of(client.get("/products", query_string={"cursor": cursor})) for name, cursor in MALFORMED.items()
    }
    assert answers == dict.fromkeys(MALFORMED, (400, "invalid_cursor"))


def test_cursor_with_invalid_column_value_is_rejected(client: FlaskClient) -> None:
    for column, values in BAD_VALUES.items():
        for value in values:
            query = {"sort": column, "cursor": forged([column, "id"], [value, 1])}
            assert error_of(client.get("/products", query_string=query)) == (400, "invalid_cursor"), (column, value)


def test_cursor_over_4000_characters_is_rejected(client: FlaskClient) -> None:
    assert invalid_fields(client.get("/products", query_string={"cursor": "a" * 4001})) == {"query": {"cursor"}}


def test_cursor_with_the_longest_texts_is_accepted(client: FlaskClient) -> None:
    for letter in "ΐ🔩":
        product(client, sku=letter * 50, name=letter * 200)
    url = "/products?sort=name,sku,price,quantity_on_hand,reorder_point,created_at,updated_at&limit=1"
    assert len(list(walk(client, url))) == 2


@pytest.mark.usefixtures("shelf")
def test_rows_of_cursor_page_match_product_detail(client: FlaskClient) -> None:
    rows, _neighbours = links(client, links(client, "/products?sort=name&limit=1")[1]["next"])
    detail = body(client.get(f"/products/{rows[0]['id']}"))
    assert detail.items() >= rows[0].items()
