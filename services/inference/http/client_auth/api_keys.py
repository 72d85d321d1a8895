"""The API keys that the service accepts, by their hashes."""

import re
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

from fraudops.api_keys import PREFIX, ApiKey, read_api_keys
from services.inference.http.client_auth.watched_file import WatchedFile

_KEY = re.compile(PREFIX.encode() + rb"[A-Za-z0-9_-]{43}")


class ApiKeyRing:
    """The keys of a file. Raises SettingsError if it cannot be used at the start."""

    def __init__(self, path: Path) -> None:
        self._file = WatchedFile(path, read_api_keys)

    def changed(self) -> bool:
        """Read the file again if it has changed, and return whether the keys are new."""
        return self._file.changed()

    def find(self, secret: bytes) -> ApiKey | None:
        """Return the key that a client sent, if it is in the file."""
        # A short key with its plain hash in the file could be guessed, so none has another form.
        if not _KEY.fullmatch(secret):
            return None
        return self._file.content.get(sha256(secret).digest())

    def rates(self, default: float | None, now: float) -> Mapping[str, float | None]:
        """Return the rate of each client, and None for one without a limit.

        Of the keys of one client that are valid at `now` (in seconds since 1970), the highest rate
        counts.
        """
        rates: dict[str, float | None] = {}
        for key in self._file.content.values():
            if key.expires and now >= key.expires.timestamp():
                continue
            rate = default if key.rate_per_second is None else key.rate_per_second
            earlier = rates.get(key.name, rate)
            rates[key.name] = None if rate is None or earlier is None else max(rate, earlier)
        return rates
