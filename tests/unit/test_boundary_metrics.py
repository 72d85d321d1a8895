"""The metrics of connections, clients and refusals."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from services.inference.metrics import Metrics

CALLS: dict[str, tuple[Callable[[Metrics], None], float]] = {
    "http_request_upload_seconds_sum": (lambda m: m.uploaded("/feedback", 2.5), 2.5),
    "fraudops_permit_wait_seconds_sum": (lambda m: m.waited("labels", 0.25), 0.25),
    "fraudops_requests_shed_total": (lambda m: m.shed("/predict"), 1),
    "fraudops_connections": (lambda m: m.connections(7), 7),
    "fraudops_connections_refused_total": (lambda m: m.connection_refused("slow_head"), 1),
    "fraudops_client_refused_total": (lambda m: m.client_refused("rate"), 1),
    "fraudops_transactions_refused_total": (
        lambda m: m.transaction_refused("/predict", "V1", "missing", 3),
        3,
    ),
}


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> CollectorRegistry:
    """Return the registry of the Metrics that a test makes."""
    made = CollectorRegistry()
    monkeypatch.setattr("services.inference.metrics.CollectorRegistry", lambda: made)
    return made


def values(registry: CollectorRegistry) -> dict[str, float]:
    """Return the sum of each series over its labels."""
    found: dict[str, float] = {}
    for family in registry.collect():
        for sample in family.samples:
            found[sample.name] = found.get(sample.name, 0) + sample.value
    return found


@pytest.mark.parametrize("name", CALLS)
def test_each_call_changes_its_own_metric_alone(
    name: str, tmp_path: Path, registry: CollectorRegistry
) -> None:
    call, value = CALLS[name]
    call(Metrics(tmp_path))
    found = values(registry)
    assert {each: found.get(each, 0) for each in CALLS} == dict.fromkeys(CALLS, 0) | {name: value}


def test_the_time_of_the_issuers_keys_is_noted(tmp_path: Path, registry: CollectorRegistry) -> None:
    Metrics(tmp_path).jwks_read()
    assert values(registry)["fraudops_jwks_read_timestamp_seconds"] > 1.7e9


@pytest.mark.parametrize(
    "call",
    [
        lambda m: m.waited("singles", 1.0),
        lambda m: m.connection_refused("card 4111"),
        lambda m: m.client_refused("card 4111"),
    ],
)
def test_a_reason_that_is_not_fixed_is_a_defect(call: Any, tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        call(Metrics(tmp_path))
