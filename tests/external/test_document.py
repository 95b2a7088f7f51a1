"""Third-party linters on the OpenAPI document. Their configuration files give a reason for each exception."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from tests.external import tools

if TYPE_CHECKING:
    from pathlib import Path


def test_openapi_document_has_no_spectral_findings(document: Path) -> None:
    done = tools.run(
        tools.FOLDER, "spectral", "lint", "--ruleset", "spectral.yaml", "--format", "json", "--quiet", document
    )
    assert json.loads(done.stdout) == []


def test_openapi_document_has_no_redocly_findings(document: Path) -> None:
    done = tools.run(tools.FOLDER, "redocly", "lint", "--config", "redocly.yaml", "--format", "json", document)
    assert json.loads(done.stdout)["problems"] == []
