from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from inventory import create_app
from inventory.config import Settings, load
from inventory.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

# The bounds of each integer setting, and values that are not integers.
BOUNDS = {
    "INVENTORY_WORKERS": (1, 256),
    "INVENTORY_THREADS": (1, 256),
    "INVENTORY_BUSY_TIMEOUT_MS": (1, 60_000),
    "INVENTORY_STATEMENT_TIMEOUT_MS": (1, 3_600_000),
    "INVENTORY_LIMIT_READS": (1, 10**9),
    "INVENTORY_LIMIT_WRITES": (1, 10**9),
    "INVENTORY_LIMIT_INVALID_KEYS": (1, 10**9),
    "INVENTORY_TRUSTED_PROXIES": (0, 10),
    "INVENTORY_MAX_SKIP": (0, 10**9),
    "INVENTORY_MAX_TRANSFERS": (1, 256),
    "INVENTORY_MAX_QUERY_BYTES": (256, 8_190),
    "INVENTORY_MAX_JSON_DEPTH": (3, 1_000),
    "INVENTORY_MAX_BATCH_LINES": (1, 1_000),
    "INVENTORY_MAX_BODY_BYTES": (1_024, 64 * 1024 * 1024),
    "INVENTORY_MAX_IMPORT_BYTES": (1_024, 4 * 1024**3),
}
NOT_INTEGERS = ["", " ", "x", "1.5", "1e3", "1_000", "0x10", "NaN", "\u0661", "9" * 50]
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


def config_error(**environ: str) -> str:
    """The error message for invalid settings."""
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
            "INVENTORY_WORKERS": None,
            "INVENTORY_THREADS": 4,
            "INVENTORY_BUSY_TIMEOUT_MS": 5_000,
        }.items()
    )
    assert settings.keys() >= Settings().fields.keys()


def test_every_setting_has_a_description() -> None:
    undescribed = [name for name, field in Settings().fields.items() if not field.metadata.get("description")]
    assert undescribed == []


def test_environment_overrides_defaults_and_mapping_overrides_both() -> None:
    environ = {"INVENTORY_THREADS": "3", "INVENTORY_WORKERS": " 2 ", "INVENTORY_AUTH": "off"}
    settings = load({"INVENTORY_THREADS": 5}, environ)
    assert settings["INVENTORY_THREADS"] == 5
    assert settings["INVENTORY_WORKERS"] == 2
    assert settings["INVENTORY_AUTH"] == "off"


def test_create_app_reads_the_process_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INVENTORY_THREADS", "7")
    assert create_app({"DATABASE_URL": "sqlite://"}).config["INVENTORY_THREADS"] == 7


def test_flask_keys_pass_through_and_other_variables_are_ignored() -> None:
    settings = load({"TESTING": True, "SECRET_KEY": None}, {"PATH": "/bin", "FLASK_DEBUG": "1", "INVENTORYX": "1"})
    assert (settings["TESTING"], settings["SECRET_KEY"]) == (True, None)
    assert not settings.keys() & {"PATH", "FLASK_DEBUG", "INVENTORYX"}


def test_max_body_bytes_sets_max_content_length() -> None:
    assert load({"INVENTORY_MAX_BODY_BYTES": 2_048}, {})["MAX_CONTENT_LENGTH"] == 2_048


@pytest.mark.parametrize("name", BOUNDS)
def test_integer_settings_are_checked_against_bounds(name: str) -> None:
    lowest, highest = BOUNDS[name]
    assert [load(environ={name: str(value)})[name] for value in (lowest, highest)] == [lowest, highest]
    for invalid in [str(lowest - 1), str(highest + 1), "-1", *NOT_INTEGERS]:
        assert config_error(**{name: invalid}).startswith(f"inventory: cannot start: invalid setting: {name}: ")


def test_choices_and_booleans_are_validated() -> None:
    for name, invalid in (("INVENTORY_AUTH", "OFF"), ("INVENTORY_REQUIRE_IDEMPOTENCY_KEY", "maybe")):
        assert f"invalid setting: {name}: " in config_error(**{name: invalid})
    read = [load(environ={"INVENTORY_REQUIRE_IDEMPOTENCY_KEY": word}) for word in ("true", "1", "no", "0")]
    assert [settings["INVENTORY_REQUIRE_IDEMPOTENCY_KEY"] for settings in read] == [True, True, False, False]


def test_rates_can_be_off_and_are_off_without_keys_unless_set() -> None:
    assert load(environ={"INVENTORY_LIMIT_READS": "off"})["INVENTORY_LIMIT_READS"] is None
    assert load(environ={})["INVENTORY_LIMIT_READS"] == 60_000
    open_to_all = load(environ={"INVENTORY_AUTH": "off", "INVENTORY_LIMIT_WRITES": "7"})
    assert [open_to_all[f"INVENTORY_LIMIT_{name}"] for name in ("READS", "WRITES", "INVALID_KEYS")] == [None, 7, None]


@pytest.mark.parametrize(("threads", "transfers"), [("1", 1), ("4", 3), ("9", 8)])
def test_one_thread_is_not_for_transfers(threads: str, transfers: int) -> None:
    assert load(environ={"INVENTORY_THREADS": threads})["INVENTORY_MAX_TRANSFERS"] == transfers


@pytest.mark.parametrize("url", ["redis://cache:6379/1", "rediss://me:secret@cache", "unix:///run/redis.sock?db=2"])
def test_redis_url_is_accepted(url: str) -> None:
    assert load(environ={"REDIS_URL": url})["REDIS_URL"] == url


@pytest.mark.parametrize("url", ["", "cache:6379", "http://me:secret@cache", "redis://:secret@cache:x"])
def test_invalid_redis_url_is_rejected_without_its_password(url: str) -> None:
    line = config_error(REDIS_URL=url)
    assert line.startswith("inventory: cannot start: invalid setting: REDIS_URL: Must be a redis://")
    assert "secret" not in line


def test_redis_url_can_be_in_a_file(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("redis://:secret@cache/0\n")
    assert load(environ={"REDIS_URL_FILE": str(tmp_path / "url")})["REDIS_URL"] == "redis://:secret@cache/0"


def test_trusted_hosts_are_parsed_and_validated() -> None:
    listed = load(environ={"INVENTORY_TRUSTED_HOSTS": " Stock.example.com,.shop.example, [::1]"})
    assert listed["INVENTORY_TRUSTED_HOSTS"] == ("stock.example.com", ".shop.example", "[::1]")
    for invalid in ("", ",", "a,", "a b", "http://a", "a:8000", "*", "*.example.com", "a..b"):
        assert "invalid setting: INVENTORY_TRUSTED_HOSTS: " in config_error(INVENTORY_TRUSTED_HOSTS=invalid)


ORIGINS = [
    "https://shop.example.com",
    "http://localhost:3000",
    "https://xn--bcher-kva.example",
    "http://192.168.1.20:8080",
    "http://[2001:db8::1]:3000",
    "http://a_b:65535",
    "https://example.com:80",
]
NOT_ORIGINS = {
    "any": "*",
    "any subdomain": "https://*.example.com",
    "opaque": "null",
    "empty": "",
    "empty item": "https://example.com,",
    "trailing slash": "https://example.com/",
    "path": "https://example.com/till",
    "query": "https://example.com?a=1",
    "user": "https://anna@example.com",
    "default port of https": "https://example.com:443",
    "default port of http": "http://example.com:80",
    "port with a zero": "http://example.com:08080",
    "no port": "http://example.com:",
    "large port": "http://example.com:65536",
    "upper-case host": "https://Example.com",
    "upper-case scheme": "HTTPS://example.com",
    "not Punycode": "https://b\u00fccher.example",
    "no scheme": "example.com",
    "other scheme": "file://example.com",
    "empty label": "https://example..com",
    "space": "https://example.com https://example.org",
    "line break": "https://example.com\n.example",
    "short IPv4 address": "http://127.1",
    "invalid IPv4 address": "http://1.2.3.400",
    "long IPv6 address": "http://[0:0:0:0:0:0:0:1]",
    "upper-case IPv6 address": "http://[2001:DB8::1]",
    "invalid IPv6 address": "http://[1::2::3]",
}


def test_cors_origins_are_a_list_of_exact_origins() -> None:
    assert load(environ={})["INVENTORY_CORS_ORIGINS"] == ()
    assert load(environ={"INVENTORY_CORS_ORIGINS": ", ".join(ORIGINS)})["INVENTORY_CORS_ORIGINS"] == tuple(ORIGINS)


@pytest.mark.parametrize("invalid", NOT_ORIGINS.values(), ids=NOT_ORIGINS)
def test_cors_origin_that_no_browser_sends_is_rejected(invalid: str) -> None:
    message = config_error(INVENTORY_CORS_ORIGINS=invalid)
    assert "invalid setting: INVENTORY_CORS_ORIGINS: " in message
    assert message.endswith("as browsers send them: scheme and host in lower case, Punycode, no path or default port.")


def test_unknown_setting_rejected_in_environment_and_mapping() -> None:
    line = "inventory: cannot start: invalid setting: INVENTORY_TREADS: Unknown setting."
    assert config_error(INVENTORY_TREADS="8") == line
    with pytest.raises(ConfigError) as raised:
        load({"INVENTORY_TREADS": 8}, {})
    assert str(raised.value) == line


def test_all_invalid_settings_are_reported_in_one_line() -> None:
    line = config_error(INVENTORY_WORKERS="x", INVENTORY_AUTH="x", INVENTORY_FOO="1", DATABASE_URL="x")
    assert "\n" not in line
    assert re.findall(r"([A-Z_]+): ", line) == ["DATABASE_URL", "INVENTORY_AUTH", "INVENTORY_FOO", "INVENTORY_WORKERS"]
    assert issubclass(ConfigError, SystemExit)


def test_invalid_database_url_error_hides_the_password() -> None:
    assert "secret" not in config_error(DATABASE_URL="mysql://me:secret@host/stock")


def test_database_urls_are_normalized_to_their_driver() -> None:
    assert {url: load(environ={"DATABASE_URL": url})["SQLALCHEMY_DATABASE_URI"] for url in URLS} == URLS


@pytest.mark.parametrize("url", ["sqlite:///stock.db?timeout=abc", "sqlite:///stock.db?cached_statements=x"])
def test_invalid_value_of_a_database_url_option_is_rejected(url: str) -> None:
    with pytest.raises(ConfigError, match="DATABASE_URL: An option has an invalid value"):
        create_app({"DATABASE_URL": url})


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("postgresql://me:secret@host/stock?ssslmode=require", "ssslmode"),
        ("postgres://me:secret@host/stock?sslmode=require&zonk=secret&aplication_name=x", "aplication_name, zonk"),
        ("postgresql://host/stock?autocommit=true", "autocommit"),
        ("sqlite:///stock.db?timout=5", "timout"),
        ("sqlite:///stock.db?mode=ro", "mode"),  # without uri=true it would be ignored
        ("sqlite:///file:stock.db?uri=true&mod=ro", "mod"),
        ("postgresql://host/stock?password=se&cr-et=1", "(not shown)"),
    ],
)
def test_unknown_database_url_option_is_rejected(url: str, named: str) -> None:
    with pytest.raises(ConfigError) as raised:
        create_app({"DATABASE_URL": url})
    assert str(raised.value) == f"inventory: cannot start: invalid setting: DATABASE_URL: Unknown option: {named}."


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://host/stock?sslmode=verify-full&sslrootcert=/ca.pem&keepalives_idle=10&tcp_user_timeout=15000",
        "postgresql://host/stock?options=-c%20work_mem%3D8MB&application_name=till&connect_timeout=3",
        "postgresql:///stock?host=/run/postgresql&port=5433",
        "sqlite:///stock.db?timeout=5&cached_statements=64",
        "sqlite:///file:stock.db?mode=ro&uri=true&immutable=1",
    ],
)
def test_known_database_url_options_are_accepted(url: str) -> None:
    create_app({"DATABASE_URL": url})


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_secret_can_be_in_a_file(ending: str, tmp_path: Path) -> None:
    file = tmp_path / "pepper"
    file.write_bytes(f"\ufeffa secret{ending}".encode())
    assert load(environ={"INVENTORY_KEY_PEPPER_FILE": str(file)})["INVENTORY_KEY_PEPPER"] == "a secret"


def test_secret_in_a_file_is_validated(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("mysql://127.0.0.1/stock")
    assert "DATABASE_URL: Must be a sqlite" in config_error(DATABASE_URL_FILE=str(tmp_path / "url"))
    (tmp_path / "pepper").touch()
    assert "INVENTORY_KEY_PEPPER: " in config_error(INVENTORY_KEY_PEPPER_FILE=str(tmp_path / "pepper"))


def test_unreadable_file_and_double_secret_are_errors(tmp_path: Path) -> None:
    missing = config_error(INVENTORY_KEY_PEPPER_FILE=str(tmp_path / "missing"))
    assert "INVENTORY_KEY_PEPPER_FILE: Cannot read the file: No such file or directory." in missing
    (tmp_path / "binary").write_bytes(b"\xff")
    assert "it is not text in UTF-8" in config_error(INVENTORY_KEY_PEPPER_FILE=str(tmp_path / "binary"))
    double = config_error(INVENTORY_KEY_PEPPER="x", INVENTORY_KEY_PEPPER_FILE=str(tmp_path / "missing"))
    assert "INVENTORY_KEY_PEPPER_FILE: Set either INVENTORY_KEY_PEPPER or INVENTORY_KEY_PEPPER_FILE." in double


def test_override_replaces_a_file(tmp_path: Path) -> None:
    (tmp_path / "pepper").write_text("secret")
    environ = {"INVENTORY_KEY_PEPPER_FILE": str(tmp_path / "pepper")}
    assert load({"INVENTORY_KEY_PEPPER": "other"}, environ)["INVENTORY_KEY_PEPPER"] == "other"


def test_other_settings_have_no_file(tmp_path: Path) -> None:
    assert "INVENTORY_THREADS_FILE: Unknown setting." in config_error(INVENTORY_THREADS_FILE=str(tmp_path))
