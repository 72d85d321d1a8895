"""Which requests an authenticator refuses while it knows no client."""

import asyncio
from pathlib import Path
from typing import Literal

import pytest

from fraudops.settings import ClientAuthSettings
from services.inference.http.client_auth.authenticator import Authenticator
from services.inference.http.problems import MissingCredentialError, UnknownCredentialError
from services.inference.metrics import CLIENT_REASONS, Metrics


class SeenMetrics(Metrics):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.seen: list[str] = []

    def client_refused(self, reason: str) -> None:
        assert reason in CLIENT_REASONS
        self.seen.append(reason)


@pytest.mark.parametrize(
    ("mode", "header", "outcome"),
    [
        ("disabled", None, None),
        ("disabled", b"authorization", None),
        ("optional", None, None),
        ("optional", b"authorization", UnknownCredentialError),
        ("required", None, MissingCredentialError),
        ("required", b"x-api-key", UnknownCredentialError),
    ],
)
async def test_a_client_that_is_not_known_gets_only_what_the_mode_allows(
    tmp_path: Path,
    mode: Literal["disabled", "optional", "required"],
    header: bytes | None,
    outcome: type[Exception] | None,
) -> None:
    metrics = SeenMetrics(tmp_path)
    settings = ClientAuthSettings(mode=mode, keys_file=tmp_path / "keys.json")
    clients = Authenticator.of(settings, metrics)
    assert clients.required == (mode == "required")
    assert clients.known(b"Bearer fo_1", "predict", 0.0) is None
    headers = {header: b"Bearer fo_1"} if header else {}
    if outcome:
        with pytest.raises(outcome):
            await clients.verify(headers, "predict")
    else:
        assert await clients.verify(headers, "predict") is None
    assert len(metrics.seen) == (outcome is not None)
    # A route without a scope is open.
    assert await clients.verify({}, None) is None
    await asyncio.wait_for(clients.run(), 10)
