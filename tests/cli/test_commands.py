"""The commands as used by scripts: stdout, stderr and exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click
import pytest
from sqlalchemy import insert, select, text, update

from inventory import create_app
from inventory.cli import commands as cli
from inventory.cli.backup_commands import backup, restore
from inventory.cli.pipes import CLOSED_PIPE
from inventory.database.base import db
from inventory.models.category import Category
from inventory.models.product import Product
from inventory.models.transaction import Transaction
from inventory.seed import seeded_product_ids
from tests.builders import (
    assert_ledger_is_consistent,
    category,
    contents,
    listed,
    nothing_changes,
    product,
    transaction,
    unprotected,
)
from tests.conftest import migrate, on_sqlite
from tests.servers import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from click.testing import Result
    from flask import Flask
    from flask.testing import FlaskClient

SMALL = ["--products", "12", "--transactions", "60"]
# Columns that the seed determines, so without ids and timestamps.
SEEDED = (
    select(Category.name).order_by(Category.id),
    select(
        Product.sku,
        Product.name,
        Product.price,
        Product.cost,
        Product.quantity_on_hand,
        Product.reorder_point,
        Product.location,
        Product.category_id,
    ).order_by(Product.id),
    select(
        Transaction.product_id,
        Transaction.seq,
        Transaction.transaction_type,
        Transaction.quantity,
        Transaction.balance_after,
        Transaction.reason,
        Transaction.reference,
    ).order_by(Transaction.id),
)


def run(app: Flask, *arguments: str, stdin: bytes | str | None = None) -> Result:
    return app.test_cli_runner().invoke(args=list(arguments), input=stdin)


def done(result: Result) -> str:
    """The stdout of a successful command; its stderr must be empty."""
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return result.stdout


def refused(result: Result, code: int) -> str:
    """The stderr of a failed command; its stdout must be empty."""
    assert (result.exit_code, result.stdout) == (code, ""), result.output
    assert "Traceback" not in result.stderr
    return result.stderr


def seeded(app: Flask) -> list[Any]:
    with app.app_context():
        return [db.session.execute(statement).all() for statement in SEEDED]


# flask seed


def test_seed_creates_requested_products_and_transactions(app: Flask, client: FlaskClient) -> None:
    assert done(run(app, "seed", *SMALL)) == "categories: 5, products: 12, transactions: 60\n"
    assert len(listed(client.get("/products"))) == 12
    rows = listed(client.get("/transactions?limit=1000"))
    assert sum((row["reference"] or "").startswith("SEED-") for row in rows) == 60
    assert_ledger_is_consistent(app)


def test_seed_is_deterministic_across_databases(app: Flask, empty_database_url: str) -> None:
    migrate(empty_database_url)
    other = create_app({"DATABASE_URL": empty_database_url})
    for each in (app, other):
        done(run(each, "seed", *SMALL))
    assert seeded(app) == seeded(other)
    with other.app_context():
        db.engine.dispose()


def test_seed_is_idempotent(app: Flask) -> None:
    done(run(app, "seed", *SMALL))
    with nothing_changes(app):
        again = json.loads(done(run(app, "seed", *SMALL, "--json")))
    assert again == {"categories": 0, "products": 0, "transactions": 0}


def test_seed_extends_existing_demo_data(app: Flask, client: FlaskClient) -> None:
    done(run(app, "seed", "--products", "5", "--transactions", "20"))
    before = listed(client.get("/transactions?sort=id&limit=1000"))
    grown = json.loads(done(run(app, "seed", *SMALL, "--json")))
    assert grown == {"categories": 0, "products": 7, "transactions": 40}
    after = listed(client.get("/transactions?sort=id&limit=1000"))
    assert after[: len(before)] == before
    assert [row["sku"] for row in listed(client.get("/products"))] == [f"DEMO-{number:05}" for number in range(1, 13)]
    assert_ledger_is_consistent(app)


def test_seed_if_empty_skips_a_database_with_data(app: Flask, client: FlaskClient) -> None:
    tools = category(client, name="FASTENERS", description="Ours")
    bolt = product(client, sku="demo-00001", category_id=tools["id"], quantity_on_hand=3)
    with nothing_changes(app):
        unused = run(app, "seed", *SMALL, "--if-empty", "--json")
        assert json.loads(done(unused)) == {"categories": 0, "products": 0, "transactions": 0}
    assert listed(client.get("/products")) == [bolt]


def test_seed_matches_existing_skus_case_insensitively(app: Flask, client: FlaskClient) -> None:
    product(client, sku="demo-00001")
    assert json.loads(done(run(app, "seed", *SMALL, "--json")))["products"] == 11
    assert len(listed(client.get("/products"))) == 12
    assert_ledger_is_consistent(app)


def test_seeded_products_beyond_five_digits_are_found(app: Flask, client: FlaskClient) -> None:
    ids = [product(client, sku=f"DEMO-{number}")["id"] for number in (99999, 100000)]
    product(client, sku="DEMO-100001")
    with app.app_context():
        assert seeded_product_ids(100_000) == ids


def test_seed_if_empty_fills_an_empty_database(app: Flask) -> None:
    assert done(run(app, "seed", *SMALL, "--if-empty")) == "categories: 5, products: 12, transactions: 60\n"


def test_seed_with_zero_products_creates_only_categories(app: Flask) -> None:
    nothing = run(app, "seed", "--products", "0", "--transactions", "9", "--json")
    assert json.loads(done(nothing)) == {"categories": 5, "products": 0, "transactions": 0}


def test_seed_with_negative_number_is_a_usage_error(app: Flask) -> None:
    with nothing_changes(app):
        assert "--products" in refused(run(app, "seed", "--products", "-1"), 2)


# flask import and flask export


@pytest.fixture
def shelf(client: FlaskClient) -> None:
    tools = category(client, name="Hand tools")
    product(client, sku="BOLT-8", name="Bolt, 8 mm", price=0.5, cost=0.25, quantity_on_hand=12, category_id=tools["id"])
    product(client, sku="=1+1", name='A "quoted" name', price=1.2345, category_id=tools["id"], is_active=False)


@pytest.mark.usefixtures("shelf")
def test_export_writes_to_stdout_by_default(app: Flask) -> None:
    lines = done(run(app, "export", "products")).splitlines()
    assert lines == [
        "sku,name,description,price,cost,quantity_on_hand,reorder_point,location,category,is_active,expected_quantity",
        'BOLT-8,"Bolt, 8 mm",,0.50,0.25,12,10,,Hand tools,true,12',
        '\'=1+1,"A ""quoted"" name",,1.2345,,0,10,,Hand tools,false,0',
    ]


@pytest.mark.usefixtures("shelf")
def test_export_transactions_lists_all_rows_by_id(app: Flask, client: FlaskClient) -> None:
    transaction(client, 1, "sale", 2, reference="INV-1")
    records = [json.loads(line) for line in done(run(app, "export", "transactions", "--format", "jsonl")).splitlines()]
    assert records == listed(client.get("/transactions?sort=id"))
    lines = done(run(app, "export", "transactions")).splitlines()
    assert lines[0].split(",") == list(records[0])
    assert len(lines) == 3


@pytest.mark.usefixtures("shelf")
def test_export_to_file_prints_nothing_and_leaves_no_other_file(app: Flask, tmp_path: Path) -> None:
    folder = tmp_path / "exports"
    folder.mkdir()
    (folder / "products.csv").write_text("old")
    assert done(run(app, "export", "products", "-o", str(folder / "products.csv"))) == ""
    assert [path.name for path in folder.iterdir()] == ["products.csv"]
    assert (folder / "products.csv").read_text() == done(run(app, "export", "products"))


@on_sqlite
def test_failed_export_keeps_the_existing_file(app: Flask, client: FlaskClient, tmp_path: Path) -> None:
    product(client)
    with app.app_context():
        columns = "product_id, sku, transaction_type, quantity, delta, balance_after, seq, xid, created_at"
        for seq in range(1, 1_001):
            timestamp = "not a timestamp" if seq == 1_000 else "2024-01-01 00:00:00.000000"
            row = f"1, 'X', 'purchase', 1, 1, {seq}, {seq}, 0, '{timestamp}'"
            db.session.execute(text(f"INSERT INTO transactions ({columns}) VALUES ({row})"))
        db.session.commit()
    folder = tmp_path / "exports"
    folder.mkdir()
    (folder / "ledger.csv").write_text("old")
    result = run(app, "export", "transactions", "-o", str(folder / "ledger.csv"))
    assert result.exit_code == 1
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"ledger.csv": "old"}


@pytest.mark.usefixtures("shelf")
def test_export_to_device_does_not_replace_it(app: Flask) -> None:
    assert done(run(app, "export", "products", "-o", "/dev/null")) == ""
    assert not os.path.isfile("/dev/null")  # noqa: PTH113 - checks the type of the path


def test_export_to_unwritable_path_fails(app: Flask, tmp_path: Path) -> None:
    missing = tmp_path / "missing" / "products.csv"
    assert refused(run(app, "export", "products", "-o", str(missing)), 1) == (
        f"Error: Cannot write {missing}: No such file or directory.\n"
    )
    for path in (tmp_path / ("x" * 252), ROOT / "pyproject.toml" / "products.csv"):
        assert "Cannot write" in refused(run(app, "export", "products", "-o", str(path)), 1)
    assert "/dev/full" in refused(run(app, "export", "products", "-o", "/dev/full"), 1)
    assert "is a directory" in refused(run(app, "export", "products", "-o", str(tmp_path)), 2)


@pytest.mark.usefixtures("shelf")
def test_import_of_an_export_changes_nothing(app: Flask, tmp_path: Path) -> None:
    path = tmp_path / "products.csv"
    done(run(app, "export", "products", "-o", str(path)))
    before = contents(app)
    outcome = json.loads(done(run(app, "import", "products", str(path), "--json")))
    assert (outcome["rows"], outcome["unchanged"]) == (2, 2)
    assert contents(app) | {"batches": []} == before


NEW = "sku,name,price,category,quantity_on_hand\nBOLT-8,Bolt,0.5,Tools,4\nNUT-8,Nut,0.25,Tools,0\n"


def test_import_reports_created_and_updated_products(app: Flask, client: FlaskClient, tmp_path: Path) -> None:
    path = tmp_path / "products.csv"
    path.write_text(NEW)
    line = done(run(app, "import", "products", str(path)))
    assert "rows: 2, created: 2, updated: 0, unchanged: 0, stock transactions: 1, dry run: false" in line
    path.write_text("sku,price,quantity_on_hand\nbolt-8,0.75,9\n")
    outcome = json.loads(done(run(app, "import", "products", str(path), "--json")))
    assert (outcome["updated"], outcome["stock_transactions"]) == (1, 1)
    (bolt,) = listed(client.get("/products?sku=BOLT-8"))
    assert (bolt["price"], bolt["quantity_on_hand"]) == (0.75, 9)
    assert_ledger_is_consistent(app)


def test_import_reads_stdin(app: Flask, client: FlaskClient) -> None:
    outcome = json.loads(done(run(app, "import", "products", "-", "--json", stdin=NEW)))
    assert outcome["created"] == 2
    assert len(listed(client.get("/products"))) == 2


def test_import_dry_run_reports_counts_and_changes_nothing(app: Flask) -> None:
    with nothing_changes(app):
        outcome = json.loads(done(run(app, "import", "products", "-", "--dry-run", "--json", stdin=NEW)))
    assert (outcome["created"], outcome["stock_transactions"], outcome["dry_run"]) == (2, 1, True)


@pytest.mark.usefixtures("shelf")
def test_import_mode_create_rejects_existing_sku(app: Flask) -> None:
    with nothing_changes(app):
        said = refused(run(app, "import", "products", "-", "--mode", "create", stdin=NEW), 1)
    assert "row 2, sku: A product with this SKU already exists." in said


def test_database_error_is_printed_as_json_too(tmp_path: Path) -> None:
    app = create_app({"DATABASE_URL": f"sqlite:///{tmp_path / 'missing.db'}"})
    result = run(app, "seed", "--json")
    assert (result.exit_code, json.loads(result.stdout)["error"]) == (1, "database_unavailable")
    assert result.stderr.startswith("Error: The database file does not exist.")


def test_import_json_errors_match_the_api(app: Flask, client: FlaskClient) -> None:
    file = "sku,price\nA,x\nB,1\n"
    with nothing_changes(app):
        result = run(app, "import", "products", "-", "--json", stdin=file)
        answer = client.post("/import/products", data=file, content_type="text/csv")
    assert (result.exit_code, result.stdout.count("\n")) == (1, 1)
    assert json.loads(result.stdout) == answer.get_json()
    assert result.stderr.startswith("Error: Nothing was imported: the file has 3 errors.\n")


def test_import_lists_all_row_errors_and_changes_nothing(app: Flask) -> None:
    with nothing_changes(app):
        said = refused(run(app, "import", "products", "-", stdin="sku,price\nA,x\nB,1\n"), 1)
    assert said.splitlines()[0] == "Error: Nothing was imported: the file has 3 errors."
    assert [line.split(":")[0] for line in said.splitlines()[1:]] == [
        "  row 2, price",
        "  row 3, name",
        "  row 3, category",
    ]


def test_import_rejects_file_that_is_not_utf_8(app: Flask) -> None:
    with nothing_changes(app):
        assert "UTF-8" in refused(run(app, "import", "products", "-", stdin=b"sku\n\xff\n"), 1)


# flask verify


def test_verify_of_consistent_ledger_succeeds(app: Flask, client: FlaskClient) -> None:
    done(run(app, "seed", *SMALL))
    product(client)
    assert done(run(app, "verify")).startswith("products: 13, transactions: ")
    verdict = json.loads(done(run(app, "verify", "--product", "1", "--json")))
    assert (verdict["products"], verdict["findings"], verdict["problems"]) == (1, 0, [])


def test_verify_reports_stock_that_differs_from_the_ledger(app: Flask, client: FlaskClient) -> None:
    bolt, nut = product(client, sku="BOLT", quantity_on_hand=5), product(client, quantity_on_hand=5)
    with app.app_context():
        with unprotected("products"):
            db.session.execute(update(Product).where(Product.id == bolt["id"]).values(quantity_on_hand=6))
        db.session.commit()
    result = run(app, "verify")
    assert result.exit_code == 1
    assert f"product {bolt['id']} (BOLT): quantity_on_hand is 6" in result.stdout
    verdict = json.loads(run(app, "verify", "--json").stdout)
    assert {problem["product_id"] for problem in verdict["problems"]} == {bolt["id"]}
    assert len(verdict["problems"]) == verdict["findings"] == 2
    assert run(app, "verify", "--product", str(nut["id"])).exit_code == 0


def test_verify_reports_broken_row_sequence(app: Flask, client: FlaskClient) -> None:
    bolt = product(client, quantity_on_hand=5)
    row = {
        "product_id": bolt["id"],
        "sku": bolt["sku"],
        "transaction_type": "purchase",
        "quantity": 1,
        "delta": 1,
        "balance_after": 7,
        "seq": 3,
        "xid": 0,
        "created_at": datetime(2024, 1, 1, tzinfo=UTC),
    }
    with app.app_context():
        db.session.execute(insert(Transaction).values(row))
        db.session.commit()
    verdict = json.loads(run(app, "verify", "--json").stdout)
    problems = {(problem["seq"], problem["problem"]) for problem in verdict["problems"]}
    assert problems >= {
        (3, "expected seq 2"),
        (3, "balance_after is 7, expected 6"),
        (3, "created_at is earlier than in the previous row"),
        (None, "last_seq is 1, but the last ledger row has seq 3"),
    }


def test_verify_of_unknown_product_exits_with_2(app: Flask) -> None:
    assert refused(run(app, "verify", "--product", "99"), 2) == "Error: Product not found.\n"


# Broken pipes


@pytest.mark.slow
@pytest.mark.parametrize("count", [3, 3_000], ids=["less than a buffer", "more than a pipe holds"])
@pytest.mark.parametrize(
    "command", ["export products", "export products --format jsonl", "import products - --dry-run"]
)
def test_import_and_export_end_quietly_on_broken_pipe(app: Flask, database_url: str, command: str, count: int) -> None:
    rows = "".join(f"S{number},Bolt,1,C\n" for number in range(count))
    done(run(app, "import", "products", "-", stdin=f"sku,name,price,category\n{rows}"))
    assert run_with_broken_pipe(database_url, command, stdin="sku\n") == (CLOSED_PIPE, "")


@pytest.mark.slow
def test_verify_ends_quietly_on_broken_pipe(app: Flask, client: FlaskClient, database_url: str) -> None:
    bolt = product(client, quantity_on_hand=5)["id"]
    with app.app_context():
        rows = [ledger_row(bolt, seq) for seq in range(10, 3_000, 2)]
        db.session.execute(insert(Transaction), rows)
        db.session.commit()
    assert run_with_broken_pipe(database_url, "verify") == (CLOSED_PIPE, "")


def ledger_row(product_id: int, seq: int) -> dict[str, Any]:
    fields = {"product_id": product_id, "sku": "X", "transaction_type": "purchase", "quantity": 1, "delta": 1}
    return fields | {"balance_after": 7, "seq": seq, "xid": 0, "created_at": datetime(2024, 1, 1, tzinfo=UTC)}


def run_with_broken_pipe(database_url: str, command: str, stdin: str = "") -> tuple[int, str]:
    """Run a command whose stdout is a broken pipe. Returns its exit code and stderr."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    with os.fdopen(write_end, "wb") as output:
        ended = subprocess.run(
            [sys.executable, "-m", "flask", "--app", "wsgi", *command.split()],
            cwd=ROOT,
            env=os.environ | {"DATABASE_URL": database_url},
            input=stdin,
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    return ended.returncode, ended.stderr


# All commands


def commands(group: click.Group, *path: str) -> Iterator[tuple[list[str], click.Command]]:
    for name, command in group.commands.items():
        yield [*path, name], command
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)


COMMANDS_OF_DATA = [cli.seed, cli.verify, cli.import_group, cli.export_group]
COMMANDS = {
    " ".join(path): command for path, command in commands(click.Group(commands=[*COMMANDS_OF_DATA, backup, restore]))
}


@on_sqlite
@pytest.mark.parametrize("name", COMMANDS)
def test_help_describes_every_command(app: Flask, name: str) -> None:
    text = done(run(app, *name.split(), "--help"))
    assert f" {name} [OPTIONS]" in text
    assert COMMANDS[name].help
    for parameter in COMMANDS[name].params:
        if isinstance(parameter, click.Option):
            assert any(option in text for option in parameter.opts)


def test_every_option_has_help_text() -> None:
    unexplained = [
        (name, option.name)
        for name, command in COMMANDS.items()
        for option in command.params
        if isinstance(option, click.Option) and not option.help and not isinstance(option.type, click.Choice)
    ]
    assert unexplained == []


@on_sqlite
@pytest.mark.parametrize(
    "arguments",
    [
        ["nosuch"],
        ["import", "products"],
        ["import", "products", "/missing.csv"],
        ["import", "products", "-", "--mode", "replace"],
        ["export", "products", "--format", "xml"],
        ["export", "categories"],
        ["seed", "--nosuch"],
        ["seed", "--products", "many"],
        ["verify", "--product", "0"],
    ],
    ids=" ".join,
)
def test_usage_error_exits_with_2(app: Flask, arguments: list[str]) -> None:
    with nothing_changes(app):
        assert "Error: " in refused(run(app, *arguments), 2)


@pytest.mark.slow
def test_seed_shows_progress_on_a_terminal_apart_from_output(database_url: str) -> None:
    controller, terminal = os.openpty()
    with os.fdopen(controller, "rb", buffering=0) as screen:
        ended = subprocess.run(
            [sys.executable, "-m", "flask", "--app", "wsgi", "seed", *SMALL, "--json"],
            cwd=ROOT,
            env=os.environ | {"DATABASE_URL": database_url},
            stdout=subprocess.PIPE,
            stderr=terminal,
            check=True,
        )
        os.close(terminal)
        shown = b""
        while chunk := read_screen(screen):
            shown += chunk
    assert json.loads(ended.stdout)["products"] == 12
    assert b"Seeding" in shown
    assert b"100%" in shown


def read_screen(screen: Any) -> bytes:
    """The next output on a terminal. At its end the kernel reports an error instead of an empty read."""
    try:
        content: bytes = screen.read(4096)
    except OSError:
        return b""
    return content
