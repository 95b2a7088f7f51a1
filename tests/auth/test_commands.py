"""flask keys."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from inventory import create_app
from inventory.auth.secrets import id_in
from inventory.database.base import db
from inventory.models.api_key import ApiKey
from tests.auth.credentials import PEPPER, client_with, keyed_app
from tests.servers import ROOT

if TYPE_CHECKING:
    from click.testing import Result
    from flask import Flask


def run(app: Flask, *arguments: str) -> Result:
    return app.test_cli_runner().invoke(args=["keys", *arguments])


def as_json(app: Flask, *arguments: str) -> Any:
    done = run(app, *arguments, "--json")
    assert done.exit_code == 0, done.output
    assert done.stdout.count("\n") == 1
    return json.loads(done.stdout)


def create(app: Flask, name: str, *arguments: str) -> str:
    done = run(app, "create", name, "--scopes", "read", *arguments)
    assert done.exit_code == 0, done.output
    return done.stdout.strip()


def refusal(app: Flask, *arguments: str) -> tuple[int, str]:
    done = run(app, *arguments)
    assert done.stdout == ""
    return done.exit_code, done.stderr.splitlines()[-1]


def test_create_prints_only_the_key_on_stdout(keyed: Flask) -> None:
    done = run(keyed, "create", "till 3", "--scopes", "stock,read")
    key = done.stdout.removesuffix("\n")
    assert id_in(key)
    assert done.stderr == (
        f"Created key 'till 3' (id {id_in(key)}, scopes read stock). Keep it: it is not shown again.\n"
    )
    assert client_with(keyed, key).get("/products").status_code == 200


@pytest.mark.parametrize(
    "arguments", [["--scopes", "read,stock"], ["--scopes", "stock read"], ["--scope", "read", "--scope", "stock"]]
)
def test_scopes_can_be_written_in_several_ways(arguments: list[str], keyed: Flask) -> None:
    assert as_json(keyed, "create", "till", *arguments)["scopes"] == ["read", "stock"]


def test_json_of_a_key(keyed: Flask) -> None:
    created = as_json(keyed, "create", "till", "--scopes", "read", "--expires", "2099-01-31")
    key = created.pop("key")
    assert created.keys() == {
        "id", "name", "scopes", "status", "created_at", "expires_at", "revoked_at", "last_used_at"
    }  # fmt: skip
    assert (created["id"], created["status"]) == (id_in(key), "active")
    assert created["expires_at"] == "2099-01-31T00:00:00+00:00"
    assert as_json(keyed, "list") == [created]
    shown = as_json(keyed, "show", "till")
    assert len(shown.pop("secrets")) == 1
    assert shown == created


def test_duration_is_counted_from_now(keyed: Flask) -> None:
    before = datetime.now(UTC)
    expires = datetime.fromisoformat(
        as_json(keyed, "create", "till", "--scopes", "read", "--expires", "12h")["expires_at"]
    )
    assert before + timedelta(hours=12) <= expires <= datetime.now(UTC) + timedelta(hours=12)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["till"], "Error: Missing option '--scopes' / '--scope'."),
        (["till", "--scopes", "write"], "Error: Invalid value for '--scopes' / '--scope': Unknown: write. Choose from"),
        (["till", "--scopes", "read", "--expires", "soon"], "Error: Invalid value for '--expires': Use a duration"),
        (
            ["till", "--scopes", "read", "--expires", "2020-01-01"],
            "Error: Invalid value for '--expires': This time has",
        ),
        (["till", "--scopes", "read", "--expires", "9999999d"], "Error: Invalid value for '--expires'"),
        (["till", "--scopes", "read", "--expires", "0d"], "Error: Invalid value for '--expires': This time"),
        (
            ["till", "--scopes", "read", "--expires", "9999-12-31T23:59:59-23:00"],
            "Error: Invalid value for '--expires'",
        ),
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str], message: str, keyed: Flask) -> None:
    status, line = refusal(keyed, "create", *arguments)
    assert status == 2
    assert line.startswith(message)
    assert as_json(keyed, "list") == []


@pytest.mark.parametrize("name", ["", " ", "a\nb", "a\x1b[31m", "x" * 101, "\u202ellit", "a\u2028b", "50cbd03f1d97"])
def test_invalid_name_is_refused(name: str, keyed: Flask) -> None:
    status, line = refusal(keyed, "create", name, "--scopes", "read")
    assert status == 1
    assert line.startswith("Error: Invalid name: ")


def test_no_scope_is_refused(keyed: Flask) -> None:
    assert refusal(keyed, "create", "till", "--scopes", ",") == (
        1,
        "Error: The scopes must be one or more of read, stock, catalogue, admin.",
    )


def test_name_is_unique_until_the_key_is_revoked(keyed: Flask) -> None:
    first = create(keyed, "Till")
    assert refusal(keyed, "create", "TILL", "--scopes", "read") == (
        1,
        "Error: Another key has this name. Rotate or revoke it, or use another name.",
    )
    assert run(keyed, "revoke", "till").exit_code == 0
    second = create(keyed, "till")
    assert as_json(keyed, "show", "TILL")["id"] == id_in(second)
    assert as_json(keyed, "show", id_in(first) or "")["status"] == "revoked"


def test_list_is_a_table(keyed: Flask) -> None:
    assert run(keyed, "list").stderr.startswith("No API keys.")
    key = create(keyed, "till 3", "--expires", "2099-01-31")
    heading, row = run(keyed, "list").stdout.splitlines()
    assert heading.split("  ")[0] == "ID"
    assert row.startswith(f"{id_in(key)}  till 3  read    active  ")
    assert "2099-01-31 00:00" in row
    assert key not in row


def test_show_lists_when_secrets_expire(keyed: Flask) -> None:
    create(keyed, "till")
    assert run(keyed, "rotate", "till", "--overlap", "1h").exit_code == 0
    lines = run(keyed, "show", "till").stdout.splitlines()
    assert [line.split()[0] for line in lines] == [
        "id", "name", "scopes", "status", "created", "expires", "revoked", "last", "secret", "secret"
    ]  # fmt: skip
    assert lines[-1].endswith("expires -")
    assert not lines[-2].endswith("expires -")


def test_revoke_is_final_and_can_be_repeated(keyed: Flask) -> None:
    key = create(keyed, "till")
    revoked = as_json(keyed, "revoke", "till")
    assert revoked["status"] == "revoked"
    assert as_json(keyed, "revoke", id_in(key) or "") == revoked
    assert refusal(keyed, "rotate", "till") == (1, "Error: The key is revoked. Create a new one.")


def test_rotate_keeps_the_id_and_at_most_two_secrets(keyed: Flask) -> None:
    first = create(keyed, "till")
    texts = [run(keyed, "rotate", "till").stdout.strip() for _ in range(3)]
    assert {id_in(text) for text in texts} == {id_in(first)}
    assert len({first, *texts}) == 4
    assert len(as_json(keyed, "show", "till")["secrets"]) == 2


@pytest.mark.parametrize("command", ["show", "revoke", "rotate"])
def test_unknown_key_is_refused(command: str, keyed: Flask) -> None:
    assert refusal(keyed, command, "nobody") == (1, "Error: No key has this name or id.")


@pytest.mark.parametrize("arguments", [["create", "till", "--scopes", "read"], ["rotate", "till"]])
def test_commands_that_hash_need_the_pepper(arguments: list[str], database_url: str) -> None:
    app = create_app({"DATABASE_URL": database_url})
    status, line = refusal(app, *arguments)
    assert status == 2
    assert line.startswith("Error: inventory: INVENTORY_KEY_PEPPER is required")
    with app.app_context():
        db.engine.dispose()


def test_command_on_unmigrated_database_suggests_upgrade(empty_database_url: str) -> None:
    app = create_app({"DATABASE_URL": empty_database_url})
    status, line = refusal(app, "list")
    assert (status, line) == (1, "Error: The database is not migrated. Run 'flask --app wsgi db upgrade'.")
    with app.app_context():
        db.engine.dispose()


def test_id_of_a_key_is_found_before_a_name(keyed: Flask) -> None:
    key_id = id_in(create(keyed, "till")) or ""
    with keyed.app_context():
        db.session.add(ApiKey(id="0" * 12, name=key_id, name_folded=key_id, scopes="read"))
        db.session.commit()
    assert as_json(keyed, "revoke", key_id)["name"] == "till"


@pytest.mark.parametrize("arguments", [["create", "new", "--scopes", "read"], ["rotate", "till", "--overlap", "0m"]])
def test_nothing_changes_if_the_key_cannot_be_printed(arguments: list[str], keyed: Flask) -> None:
    key = create(keyed, "till")
    before = as_json(keyed, "list")
    environment = os.environ | {"DATABASE_URL": keyed.config["DATABASE_URL"], "INVENTORY_KEY_PEPPER": PEPPER}
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "flask", "--app", "wsgi", "keys", *arguments],
            cwd=ROOT,
            env=environment,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.stderr == "Error: Nothing was changed: No space left on device.\n"
    assert done.returncode == 1
    assert as_json(keyed, "list") == before
    assert client_with(keyed, key).get("/products").status_code == 200


def test_problem_is_json_on_request(keyed: Flask) -> None:
    done = run(keyed, "show", "nobody", "--json")
    assert json.loads(done.stdout) == {"error": "not_found", "message": "No key has this name or id."}
    assert done.exit_code == 1


def test_name_like_a_time_is_shown_as_it_is(keyed: Flask) -> None:
    create(keyed, "2026-11-22Till of the shop")
    assert "2026-11-22Till of the shop" in run(keyed, "list").stdout


def test_new_secrets_with_another_pepper_are_made_with_a_warning(keyed: Flask, database_url: str) -> None:
    warning = "Warning: some keys were made with another INVENTORY_KEY_PEPPER."
    assert warning not in run(keyed, "create", "till 1", "--scopes", "read").stderr
    other = keyed_app(database_url, "another pepper than that of the service")
    for arguments in (("create", "till 2", "--scopes", "read"), ("rotate", "till 1")):
        done = run(other, *arguments)
        assert done.exit_code == 0
        assert done.stderr.startswith(warning)
    with other.app_context():
        db.engine.dispose()
