"""The house's own rules, read from the source: who may import whom, and who may write stock."""

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
DOMAINS = ("categories", "products", "transactions")
MODELS = ("category", "product", "transaction")
# Rooms that face the network; every other module of a domain knows nothing of it.
OUTWARD = {"routes", "schemas"}
NETWORK = {
    "flask",
    "flask_smorest",
    "webargs",
    "werkzeug",
    "inventory.web.api",
    "inventory.web.headers",
    "inventory.web.handlers",
}
WRITER = "inventory.transactions.service"


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {name_of(path): ast.parse(path.read_text(), str(path)) for path in sorted(PACKAGE.rglob("*.py"))}


def is_for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def running(node: ast.AST) -> Iterator[ast.AST]:
    """Every node below, without what only the type checker reads."""
    for child in ast.iter_child_nodes(node):
        if not is_for_types_only(child):
            yield child
            yield from running(child)


def imported_by(node: ast.AST) -> Iterator[str]:
    """Names of modules; of what stands in ``from a import b``, also ``a.b``, since b may be a module."""
    for child in running(node):
        if isinstance(child, ast.Import):
            yield from (alias.name for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, "relative import"
            yield child.module or ""
            yield from (f"{child.module}.{alias.name}" for alias in child.names)


def imports(module: str) -> set[str]:
    """Modules of ours that a module needs to be loaded."""
    return set(imported_by(SOURCES[module])) & SOURCES.keys() - {module, "inventory"}


def rooms(*domains: str) -> Iterator[tuple[str, str]]:
    """The modules of domains, each with its room."""
    for module in SOURCES:
        parts = module.split(".")
        if len(parts) == 3 and parts[1] in domains:
            yield module, parts[2]


def test_the_source_was_found() -> None:
    assert SOURCES.keys() >= {"inventory", "inventory.database.base", WRITER}
    assert {domain for domain in DOMAINS if list(rooms(domain))} == set(DOMAINS)


@pytest.mark.parametrize("module", SOURCES)
def test_nothing_is_imported_inside_a_function(module: str) -> None:
    functions = [node for node in ast.walk(SOURCES[module]) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    assert {function.name: list(imported_by(function)) for function in functions if [*imported_by(function)]} == {}


def test_modules_do_not_import_each_other_in_a_circle() -> None:
    TopologicalSorter({module: imports(module) for module in SOURCES}).prepare()


def test_core_modules_know_no_domain() -> None:
    above = {"inventory", "inventory.cli", "inventory.seed"}
    for module in SOURCES.keys() - above:
        if module.count(".") == 1:
            assert not {name for name in imports(module) if name.count(".") == 2}, module


def test_models_know_only_the_models_below_their_own() -> None:
    for position, model in enumerate(MODELS):
        known = {name for name in imports(f"inventory.models.{model}") if name.startswith("inventory.models.")}
        assert not known & {f"inventory.models.{above}" for above in MODELS[position + 1 :]}, model


def test_models_know_no_use_cases() -> None:
    for model in MODELS:
        for name in imports(f"inventory.models.{model}"):
            assert name.split(".")[1] not in {*DOMAINS, "import_export"}


def test_categories_and_their_service_know_no_other_domain() -> None:
    for module in ("inventory.models.category", "inventory.categories.service"):
        assert not {
            name for name in imports(module) if name.split(".")[1] in {*DOMAINS, "import_export"} - {"categories"}
        }


def test_the_ledger_knows_products_by_their_model_alone() -> None:
    for module, room in rooms("transactions"):
        if room != "routes":
            others = {
                name for name in imports(module) if name.split(".")[1] in {"categories", "products", "import_export"}
            }
            assert others <= {"inventory.models.product"}, module


def test_use_cases_know_nothing_of_the_network() -> None:
    for module, room in rooms(*DOMAINS, "import_export"):
        if room not in OUTWARD:
            assert not set(imported_by(SOURCES[module])) & NETWORK, module


def test_views_leave_the_database_to_the_use_cases() -> None:
    for module, room in rooms(*DOMAINS, "import_export"):
        if room == "routes":
            assert not {name for name in imported_by(SOURCES[module]) if name.split(".")[0] == "sqlalchemy"}, module


def quantity_writes(tree: ast.AST) -> Iterator[int]:
    """Lines that set ``quantity_on_hand``: as an attribute, or by name where a row is made or changed."""
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


def test_stock_is_written_in_one_place_only() -> None:
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
def test_every_way_to_write_stock_is_noticed(source: str) -> None:
    assert list(quantity_writes(ast.parse(source))) == [1]


def test_ledger_rows_are_inserted_in_one_place_only() -> None:
    inserts = {
        module
        for module, tree in SOURCES.items()
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and (called(node) == "Transaction" or called(node) == "insert")
        for argument in [node.func, *node.args]
        if isinstance(argument, ast.Name) and argument.id in {"LEDGER", "Transaction"}
    }
    assert inserts == {WRITER}


def test_tables_are_made_by_migrations_only() -> None:
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
    assert commits == {"inventory.database.base"}
