"""Files of clients' credentials, and authenticators over them with a clock of their own."""

import json
import time
from pathlib import Path
from typing import Any

from fraudops.api_keys import digest_of
from fraudops.settings import ClientAuthSettings
from services.inference.http.client_auth.authenticator import Authenticator
from services.inference.metrics import CLIENT_REASONS, Metrics
from tests.support.tokens import AUDIENCE, ISSUER, jwks, signing_key

# Fixed, because they are in the names of tests, which all test processes must have in common.
KEY, OTHER = f"fo_{'k' * 43}", f"fo_{'o' * 43}"
ISSUED = signing_key("ES256", "1")
BEARER = b"Bearer " + KEY.encode()


class SeenMetrics(Metrics):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.seen: list[str] = []

    def client_refused(self, reason: str) -> None:
        assert reason in CLIENT_REASONS
        self.seen.append(reason)


class ClientSite:
    """Files of keys in a folder, and authenticators over them with a clock of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.now = folder, time.time()
        self.keys, self.jwks = folder / "keys.json", folder / "jwks.json"
        self.metrics = SeenMetrics(folder)
        self.write(entry(KEY))

    def write(self, *entries: dict[str, Any] | str) -> None:
        """Replace the file of keys, as kubelet does. A text is the whole content."""
        content = entries[0] if isinstance(entries[0], str) else json.dumps({"keys": entries})
        new = self.folder / "new"
        new.write_text(content)
        new.replace(self.keys)

    def clients(self, **settings: Any) -> Authenticator:
        given = ClientAuthSettings(**{"mode": "required", "keys_file": self.keys} | settings)
        made = Authenticator.of(given, self.metrics)
        made._clock = lambda: self.now
        return made

    def with_tokens(self, **settings: Any) -> Authenticator:
        self.jwks.write_bytes(jwks(ISSUED))
        issuer = {"jwt_issuer": ISSUER, "jwt_audience": AUDIENCE, "jwks_file": self.jwks}
        return self.clients(**issuer | settings)


def entry(key: str, name: str = "shop", **fields: Any) -> dict[str, Any]:
    given = {"name": name, "sha256": digest_of(key).hex(), "scopes": ["predict"]}
    return given | fields
