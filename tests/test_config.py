from __future__ import annotations

import os
import re

import pytest

from inventory import create_app
from inventory.config import ConfigError, Settings, load

# For each setting its bounds, and values that are none of its kind.
BOUNDS = {
    "INVENTORY_WORKERS": (1, 256),
    "INVENTORY_THREADS": (1, 256),
    "INVENTORY_BUSY_TIMEOUT_MS": (1, 60_000),
    "INVENTORY_STATEMENT_TIMEOUT_MS": (1, 3_600_000),
    "INVENTORY_MAX_BODY_BYTES": (1_024, 64 * 1024 * 1024),
    "INVENTORY_MAX_IMPORT_BYTES": (1_024, 4 * 1024**3),
}
NO_WHOLE_NUMBERS = ["", " ", "x", "1.5", "1e3", "1_000", "0x10", "NaN", "\u0661", "9" * 50]
URLS = {
    "sqlite:///inventory.db": "sqlite:///inventory.db",
    "sqlite:////var/lib/inventory.db": "sqlite:////var/lib/inventory.db",
    "sqlite+pysqlite:///inventory.db": "sqlite+pysqlite:///inventory.db",
    "postgres://host/stock": "postgresql+psycopg://host/stock",
    "postgresql://host/stock": "postgresql+psycopg://host/stock",
    "postgresql+psycopg://host/stock": "postgresql+psycopg://host/stock",
    "postgres://me:p%40ss%2Fword@host:6432/stock?sslmode=require": (
        "postgresql+psycopg://me:p%40ss%2Fword@host:6432/stock?sslmode=require"
    ),
    "postgresql:///stock?host=/run/postgresql": "postgresql+psycopg:///stock?host=%2Frun%2Fpostgresql",
}


def refusal(**environ: str) -> str:
    """The line with which a wrong setting stops the start."""
    with pytest.raises(ConfigError) as raised:
        load(environ=environ)
    return str(raised.value)


def test_every_setting_has_a_default() -> None:
    settings = load(environ={})
    assert (
        settings.items()
        >= {
            "DATABASE_URL": "sqlite:///inventory.db",
            "SQLALCHEMY_DATABASE_URI": "sqlite:///inventory.db",
            "INVENTORY_AUTH": "keys",
            "INVENTORY_WORKERS": os.cpu_count(),
            "INVENTORY_THREADS": 8,
            "INVENTORY_BUSY_TIMEOUT_MS": 5_000,
        }.items()
    )
    assert settings.keys() >= Settings().fields.keys()


def test_every_setting_is_described() -> None:
    undescribed = [name for name, field in Settings().fields.items() if not field.metadata.get("description")]
    assert undescribed == []


def test_the_environment_goes_before_the_defaults_and_a_mapping_before_both() -> None:
    environ = {"INVENTORY_THREADS": "3", "INVENTORY_WORKERS": " 2 ", "INVENTORY_AUTH": "off"}
    settings = load({"INVENTORY_THREADS": 5}, environ)
    assert settings["INVENTORY_THREADS"] == 5
    assert settings["INVENTORY_WORKERS"] == 2
    assert settings["INVENTORY_AUTH"] == "off"


def test_the_environment_is_that_of_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INVENTORY_THREADS", "7")
    assert create_app({"DATABASE_URL": "sqlite://"}).config["INVENTORY_THREADS"] == 7


def test_other_variables_and_keys_of_flask_pass_through() -> None:
    settings = load({"TESTING": True, "SECRET_KEY": None}, {"PATH": "/bin", "FLASK_DEBUG": "1", "INVENTORYX": "1"})
    assert (settings["TESTING"], settings["SECRET_KEY"]) == (True, None)
    assert not settings.keys() & {"PATH", "FLASK_DEBUG", "INVENTORYX"}


def test_bodies_are_limited_by_their_setting() -> None:
    assert load({"INVENTORY_MAX_BODY_BYTES": 2_048}, {})["MAX_CONTENT_LENGTH"] == 2_048


@pytest.mark.parametrize("name", BOUNDS)
def test_numbers_reach_to_their_bounds_and_not_beyond(name: str) -> None:
    lowest, highest = BOUNDS[name]
    assert [load(environ={name: str(value)})[name] for value in (lowest, highest)] == [lowest, highest]
    for wrong in [str(lowest - 1), str(highest + 1), "-1", *NO_WHOLE_NUMBERS]:
        assert refusal(**{name: wrong}).startswith(f"inventory: cannot start, wrong setting: {name}: ")


def test_words_and_flags_are_checked() -> None:
    for name, wrong in (("INVENTORY_AUTH", "OFF"), ("INVENTORY_REQUIRE_IDEMPOTENCY_KEY", "maybe")):
        assert f"wrong setting: {name}: " in refusal(**{name: wrong})
    read = [load(environ={"INVENTORY_REQUIRE_IDEMPOTENCY_KEY": word}) for word in ("true", "1", "no", "0")]
    assert [settings["INVENTORY_REQUIRE_IDEMPOTENCY_KEY"] for settings in read] == [True, True, False, False]


def test_unknown_setting_is_refused_from_either_side() -> None:
    line = "inventory: cannot start, wrong setting: INVENTORY_TREADS: Unknown field."
    assert refusal(INVENTORY_TREADS="8") == line
    with pytest.raises(ConfigError) as raised:
        load({"INVENTORY_TREADS": 8}, {})
    assert str(raised.value) == line


def test_all_wrong_settings_are_named_in_one_line_by_which_the_process_ends() -> None:
    line = refusal(INVENTORY_WORKERS="x", INVENTORY_AUTH="x", INVENTORY_FOO="1", DATABASE_URL="x")
    assert "\n" not in line
    assert re.findall(r"([A-Z_]+): ", line) == ["DATABASE_URL", "INVENTORY_AUTH", "INVENTORY_FOO", "INVENTORY_WORKERS"]
    assert issubclass(ConfigError, SystemExit)


def test_password_of_a_wrong_url_is_not_shown() -> None:
    assert "secret" not in refusal(DATABASE_URL="mysql://me:secret@host/stock")


def test_urls_of_both_engines_are_accepted_and_name_their_driver() -> None:
    assert {url: load(environ={"DATABASE_URL": url})["SQLALCHEMY_DATABASE_URI"] for url in URLS} == URLS
