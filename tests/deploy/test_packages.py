"""Files of deploy/ and the Dockerfile: valid for the tools that read them, and in agreement with each other."""

from __future__ import annotations

import re
import shutil
import stat
import subprocess
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from inventory import config
from tests.external import tools
from tests.servers import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DEPLOY = ROOT / "deploy"
COMPOSE = DEPLOY / "compose.yaml"
SYSTEMD = DEPLOY / "systemd"
MANIFESTS = [file for file in sorted((DEPLOY / "kubernetes").glob("*.yaml")) if file.stem != "kustomization"]
# On a scale from 0 to 10. systemd calls up to 2.0 "OK".
HIGHEST_EXPOSURE = 1.5
# Of nginx, gunicorn and the program loader.
FOREIGN = {"FORWARDED_ALLOW_IPS", "MALLOC_MMAP_THRESHOLD_"}


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
    return found


def service(name: str) -> dict[str, Any]:
    found: dict[str, Any] = compose()["services"][name]
    return found


def address_of(name: str) -> str:
    found: str = service(name)["networks"]["default"]["ipv4_address"]
    return found


def containers() -> Iterator[dict[str, Any]]:
    """The containers of all pods."""
    for file in MANIFESTS:
        template = yaml.safe_load(file.read_text())["spec"].get("template")
        yield from template["spec"]["containers"] if template else []


@pytest.mark.external
def test_dockerfile_is_valid() -> None:
    tools.assert_succeeded(tools.run(ROOT, "hadolint", "Dockerfile"))


@pytest.mark.external
def test_composition_is_valid() -> None:
    tools.assert_succeeded(tools.run(ROOT, "check-jsonschema", "--builtin-schema", "vendor.compose-spec", COMPOSE))


@pytest.mark.external
@pytest.mark.parametrize("file", MANIFESTS, ids=lambda file: file.stem)
def test_manifests_are_valid(file: Path) -> None:
    tools.assert_succeeded(tools.run(ROOT, "kubernetes-validate", "--strict", file))


def test_kustomization_names_the_manifests() -> None:
    kustomization = yaml.safe_load((DEPLOY / "kubernetes" / "kustomization.yaml").read_text())
    # The migration is run before an update, and not with it.
    assert {*kustomization["resources"], "migration.yaml"} == {file.name for file in MANIFESTS}


@pytest.mark.external
def test_units_are_valid_and_confined(tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("systemd is not installed")
    for unit in SYSTEMD.iterdir():
        text = unit.read_text().replace("/opt/inventory/.venv/bin/gunicorn", "/bin/true")
        (tmp_path / unit.name).write_text(text)
    units = [str(tmp_path / unit.name) for unit in SYSTEMD.iterdir()]
    verified = tools.run(tmp_path, "systemd-analyze", "verify", "--man=no", *units)
    assert (verified.returncode, verified.stderr) == (0, "")
    threshold = f"--threshold={10 * HIGHEST_EXPOSURE:.0f}"
    inventory = str(tmp_path / "inventory.service")
    tools.assert_succeeded(tools.run(tmp_path, "systemd-analyze", "security", "--offline=true", threshold, inventory))


def test_settings_exist() -> None:
    unit = (SYSTEMD / "inventory.service").read_text()
    used = set(re.findall(r"^Environment=([A-Z_]+)", unit, re.MULTILINE)) | set(service("inventory-1")["environment"])
    used |= {variable["name"] for container in containers() for variable in container["env"]}
    known = set(config.Settings().fields) | {f"{name}_FILE" for name in config.SECRETS} | FOREIGN
    assert used <= known


def test_settings_are_accepted_together_with_those_of_the_image(tmp_path: Path) -> None:
    secrets = {
        "database_url": "postgresql://inventory@database/inventory",
        "pepper": "a pepper of the tests, which is long",
    }
    for name, value in secrets.items():
        (tmp_path / name).write_text(value)
    image = dict(re.findall(r"^(?:ENV|   ) ([A-Z_]+)=(\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    assert "INVENTORY_WORKERS" in image
    environments = [service("inventory-1")["environment"]]
    environments += [{one["name"]: one["value"] for one in container["env"]} for container in containers()]
    for environment in environments:
        given = {
            name: re.sub("^/run/secrets/(inventory/)?", f"{tmp_path}/", value) for name, value in environment.items()
        }
        assert config.load(environ=image | given)["DATABASE_URL"] == secrets["database_url"]


def test_nginx_and_prometheus_connect_to_the_services() -> None:
    addresses = {
        f"{service(name)['networks']['default']['ipv4_address']}:8000" for name in ("inventory-1", "inventory-2")
    }
    hosts = re.findall(r"server (\S+) ", (DEPLOY / "nginx.hosts").read_text())
    scraped = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())["scrape_configs"][0]
    assert set(hosts) == addresses
    assert set(scraped["static_configs"][0]["targets"]) == addresses
    trusted = service("inventory-1")["environment"]["FORWARDED_ALLOW_IPS"]
    assert trusted == address_of("nginx")


def test_only_nginx_is_reachable_from_outside() -> None:
    reachable = {name: found["ports"] for name, found in compose()["services"].items() if "ports" in found}
    assert reachable.pop("prometheus") == ["127.0.0.1:9090:9090"]
    assert set(reachable) == {"nginx"}


@pytest.mark.parametrize("name", ["nginx", "inventory-1", "inventory-2", "setup", "redis", "prometheus"])
def test_containers_are_confined(name: str) -> None:
    found = service(name)
    assert found["read_only"] is True
    assert found["cap_drop"] == ["ALL"]
    assert found["security_opt"] == ["no-new-privileges:true"]


def test_pods_are_confined() -> None:
    for container in containers():
        context = container["securityContext"]
        assert context["readOnlyRootFilesystem"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}


def test_secrets_are_made_once_and_for_the_owner(tmp_path: Path) -> None:
    shutil.copy(DEPLOY / "make-secrets", tmp_path)
    folder = tmp_path / "secrets"
    subprocess.run([tmp_path / "make-secrets"], check=True)
    made = {file.name: file.read_text() for file in folder.iterdir()}
    files = {PurePath(secret["file"]).name for secret in compose()["secrets"].values()}
    assert set(made) == files
    assert made["database_password"].strip() in made["database_url"]
    assert len(made["pepper"].strip()) == 64
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    subprocess.run([tmp_path / "make-secrets"], check=True)
    assert {file.name: file.read_text() for file in folder.iterdir()} == made


@pytest.mark.external
def test_prometheus_configuration_is_valid() -> None:
    file = DEPLOY / "prometheus" / "prometheus.yml"
    tools.assert_succeeded(tools.run(ROOT, "promtool", "check", "config", "--syntax-only", file))
