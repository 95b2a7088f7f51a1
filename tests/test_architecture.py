"""Architecture rules, checked in the source: import directions, and which modules write stock."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from typing import TYPE_CHECKING

import pytest

from tests.servers import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PACKAGE = ROOT / "inventory"
# From top to bottom: a module imports only from its own layer and from those below it.
LAYERS = (
    ("server",),
    ("inventory",),
    ("cli", "seed"),
    ("import_export",),
    ("categories",),
    ("products",),
    ("transactions",),
    ("auth",),
    ("web",),
    ("models",),
    ("database",),
    ("config",),
    ("config_fields",),
    ("caller",),
    ("dumper",),
    ("fields", "errors"),
    ("activity", "logs"),
)
LAYER_OF = {package: number for number, packages in enumerate(LAYERS) for package in packages}
DOMAINS = ("import_export", "categories", "products", "transactions")
# Modules of a domain that handle HTTP. The others, its use cases, must not import web code.
HTTP_MODULES = {"routes", "schemas", "uploads"}
WEB_FRAMEWORKS = {"flask", "flask_smorest", "webargs", "werkzeug"}
# What a use case needs of a request: its idempotency key and its precondition.
REQUEST_VALUES = {"inventory.web.idempotency", "inventory.web.conditional"}
WRITER = "inventory.transactions.statements"


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in sorted(PACKAGE.rglob("*.py"))}
SOURCES = {name: ast.parse(path.read_text(), str(path)) for name, path in MODULES.items()}


def imported_by(node: ast.AST) -> Iterator[str]:
    """Names of modules: ``from a import b`` names a.b if that is a module of this project, and a otherwise."""
    for child in ast.walk(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "relative import"
            for alias in child.names:
                inner = f"{child.module}.{alias.name}"
                yield inner if inner in MODULES else child.module or ""


def imports(module: str) -> set[str]:
    """Modules of this project that a module imports, including those imported only for types."""
    return set(imported_by(SOURCES[module])) & SOURCES.keys() - {module}


def package_of(module: str) -> str:
    return module.split(".")[1] if "." in module else module


def use_cases() -> list[str]:
    """The modules of domains that do not handle HTTP."""
    return [name for name in SOURCES if package_of(name) in DOMAINS and name.split(".")[-1] not in HTTP_MODULES]


def test_every_package_has_a_layer() -> None:
    assert SOURCES.keys() >= {"inventory", "inventory.database.base", WRITER}
    assert {package_of(module) for module in SOURCES} == set(LAYER_OF)


@pytest.mark.parametrize("module", SOURCES)
def test_modules_import_only_from_same_or_lower_layers(module: str) -> None:
    layer = LAYER_OF[package_of(module)]
    assert {name for name in imports(module) if LAYER_OF[package_of(name)] < layer} == set()


@pytest.mark.parametrize("module", SOURCES)
def test_no_imports_inside_functions(module: str) -> None:
    functions = [node for node in ast.walk(SOURCES[module]) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert {function.name: list(imported_by(function)) for function in functions if [*imported_by(function)]} == {}


def test_no_circular_imports() -> None:
    TopologicalSorter({module: imports(module) for module in SOURCES}).prepare()


@pytest.mark.parametrize("module", use_cases())
def test_use_cases_do_not_import_web_code(module: str) -> None:
    names = set(imported_by(SOURCES[module]))
    assert not names & WEB_FRAMEWORKS
    assert not {name for name in names & SOURCES.keys() if package_of(name) == "web"} - REQUEST_VALUES


def test_routes_do_not_import_sqlalchemy() -> None:
    for module, tree in SOURCES.items():
        if module.endswith(".routes"):
            assert not {name for name in imported_by(tree) if name.split(".")[0] == "sqlalchemy"}, module


def quantity_writes(tree: ast.AST) -> Iterator[int]:
    """Lines that set ``quantity_on_hand``: as an attribute, or by name where a row is created or changed."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr == "quantity_on_hand" and isinstance(node.ctx, ast.Store):
            yield node.lineno
        if isinstance(node, ast.Call) and called(node) in {"Product", "values", "setattr", "update"}:
            words = {item.value for item in ast.walk(node) if isinstance(item, ast.Constant)}
            if "quantity_on_hand" in words | {keyword.arg for keyword in node.keywords}:
                yield node.lineno


def called(node: ast.Call) -> str:
    match node.func:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name
        case _:
            return ""


def test_quantity_on_hand_is_written_in_one_place() -> None:
    assert {module: lines for module in SOURCES if (lines := list(quantity_writes(SOURCES[module])))}.keys() == {WRITER}
    assert len(list(quantity_writes(SOURCES[WRITER]))) == 1


@pytest.mark.parametrize(
    "source",
    [
        "product.quantity_on_hand = 5",
        "product.quantity_on_hand += 5",
        "Product(sku='A', quantity_on_hand=5)",
        "update(Product).values(quantity_on_hand=5)",
        "update(Product).values({'quantity_on_hand': 5})",
        "setattr(product, 'quantity_on_hand', 5)",
    ],
)
def test_quantity_writes_detects_every_form(source: str) -> None:
    assert list(quantity_writes(ast.parse(source))) == [1]


def test_ledger_rows_are_inserted_by_one_module() -> None:
    inserts = {
        module
        for module, tree in SOURCES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and (called(node) == "Transaction" or called(node) == "insert")
        for argument in [node.func, *node.args]
        if isinstance(argument, ast.Name) and argument.id in {"LEDGER", "Transaction"}
    }
    assert inserts == {WRITER}


def test_only_the_ledger_service_executes_the_statements_that_move_stock() -> None:
    users = {
        module
        for module, tree in SOURCES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module == WRITER
        if {"record_one", "record_many", "stock_update"} & {name.name for name in node.names}
    }
    assert users == {"inventory.transactions.service"}


def test_only_migrations_create_tables() -> None:
    for module, tree in SOURCES.items():
        names = {node.attr for node in ast.walk(tree) if isinstance(node, ast.Attribute)}
        assert not names & {"create_all", "drop_all"}, module


def test_only_the_unit_of_work_commits() -> None:
    commits = {
        module
        for module, tree in SOURCES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and node.attr == "commit"
    }
    assert commits == {"inventory.database.unit_of_work"}


def decorators_of_routes() -> Iterator[tuple[str, int]]:
    for module, tree in SOURCES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.FunctionDef):
                names = [called(decorator) for decorator in node.decorator_list if isinstance(decorator, ast.Call)]
                if "route" in names:
                    yield f"{module}.{node.name}", len(node.decorator_list)


def test_routes_have_at_most_five_decorators() -> None:
    counted = dict(decorators_of_routes())
    assert len(counted) > 20
    assert {view: count for view, count in counted.items() if count > 5} == {}
