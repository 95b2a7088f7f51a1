"""Reads what /metrics returns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client.parser import text_string_to_metric_families

if TYPE_CHECKING:
    from flask.testing import FlaskClient

Labels = frozenset[tuple[str, str]]


class Samples:
    """The values of an exposition, by name and labels. What is absent is 0."""

    def __init__(self, text: str) -> None:
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        samples = [sample for family in self.families.values() for sample in family.samples]
        self.names = {sample.name for sample in samples}
        self.values = {(sample.name, frozenset(sample.labels.items())): sample.value for sample in samples}

    def value(self, name: str, **labels: str) -> float:
        return self.values.get((name, frozenset(labels.items())), 0.0)

    def labels(self, name: str) -> list[dict[str, str]]:
        """The labels of all time series of a name."""
        return [dict(labels) for found, labels in self.values if found == name]


def scrape(client: FlaskClient) -> Samples:
    response = client.get("/metrics")
    assert response.status_code == 200, response.text
    return Samples(response.text)


class Counting:
    """The difference between the counters now and at the beginning, because tests of a process share them."""

    def __init__(self, client: FlaskClient) -> None:
        self.client = client
        self.before = scrape(client)

    def of(self, name: str, **labels: str) -> float:
        return scrape(self.client).value(name, **labels) - self.before.value(name, **labels)
