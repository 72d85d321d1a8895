"""The service that all hostile clients call: two workers with low limits."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from fraudops.api_keys import digest_of
from tests.contract.wire.resource_cases import (
    BODY_SECONDS,
    HEAD_SECONDS,
    IDLE_SECONDS,
    MOST_CONNECTIONS,
)
from tests.support.figures import PROOF, Figures
from tests.support.neighbour import Attack
from tests.support.serving import Service
from tests.support.tokens import AUDIENCE, ISSUER, jwks, signing_key
from tests.support.waiting import eventually
from tests.support.wire_cases import survived
from tests.support.wire_steps import pause


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that logs each answer and knows one client, and serves the others too."""
    folder = tmp_path_factory.mktemp("hostile")
    started = Service(folder / "service", environment=limits() | known_clients(folder))
    try:
        service = started.promoted(1)
        # The pod may be ready before its second worker has begun.
        eventually(lambda: _check_workers(service), 60)
        yield service
    finally:
        started.stop()


def _check_workers(service: Service) -> None:
    assert len(service.worker_pids()) == service.workers


@pytest.fixture(scope="session")
def figures(hostile: Service) -> Iterator[Figures]:
    """What a neighbour of the attacks waits; with PROOF=1 written at the end."""
    noted = Figures("wire", "A usual client during hostile ones", workers=2)
    if PROOF:
        alone = survived("no client", [pause(10)], "no attack")
        Attack.on(hostile, [alone], at_once=1).noted(noted, "no attack")
    yield noted
    noted.write()


def known_clients(folder: Path) -> dict[str, str]:
    """Write a key and an issuer, which no hostile client has, and return their settings."""
    key = {"name": "bank", "sha256": digest_of("a-key").hex(), "scopes": ["predict"]}
    (folder / "keys.json").write_text(json.dumps({"keys": [key]}))
    (folder / "jwks.json").write_bytes(jwks(signing_key("ES256", "1")))
    return {
        "FRAUDOPS_CLIENT_AUTH__MODE": "optional",
        "FRAUDOPS_CLIENT_AUTH__KEYS_FILE": str(folder / "keys.json"),
        "FRAUDOPS_CLIENT_AUTH__JWKS_FILE": str(folder / "jwks.json"),
        "FRAUDOPS_CLIENT_AUTH__JWT_ISSUER": ISSUER,
        "FRAUDOPS_CLIENT_AUTH__JWT_AUDIENCE": AUDIENCE,
    }


def limits() -> dict[str, str]:
    return {
        "FRAUDOPS_HTTP__ACCESS_LOG": "true",
        "FRAUDOPS_HTTP__MAX_CONNECTIONS": str(MOST_CONNECTIONS),
        "FRAUDOPS_HTTP__HEAD_SECONDS": str(HEAD_SECONDS),
        "FRAUDOPS_HTTP__BODY_SECONDS": str(BODY_SECONDS),
        "FRAUDOPS_HTTP__IDLE_SECONDS": str(IDLE_SECONDS),
    }
