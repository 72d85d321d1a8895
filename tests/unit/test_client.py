"""How the client of the service authenticates, and what it says about a refusal."""

from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from fraudops.client import InferenceClient
from fraudops.errors import SettingsError, StoreDownError
from fraudops.state import State
from jobs.options.service import open_client

KEY = "fo_correct-horse"


@contextmanager
def service(status: int, seen: list[str | None]) -> Iterator[str]:
    """A service that answers with a status, and notes the credential of each request."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append(self.headers.get("Authorization"))
            body = b'{"detail": "no such key"}'
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_every_command_sends_the_key_of_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    seen: list[str | None] = []
    with service(200, seen) as url:
        for value in (KEY, ""):
            monkeypatch.setenv("FRAUDOPS_API_KEY", value)
            with open_client(url, State.at(str(tmp_path))) as client:
                client.ready()
    assert seen == [f"Bearer {KEY}", None]


@pytest.mark.parametrize(
    ("status", "kind", "remedy"),
    [
        (401, SettingsError, "; set FRAUDOPS_API_KEY to a key of this service"),
        (403, SettingsError, ""),
        (429, StoreDownError, ""),
    ],
)
def test_a_refusal_says_what_to_do_and_does_not_quote_the_key(
    status: int, kind: type[Exception], remedy: str
) -> None:
    with service(status, []) as url, InferenceClient(url, credential=KEY) as client:
        with pytest.raises(kind) as refused:
            client.ready()
        assert str(refused.value).endswith(f"({status}): no such key{remedy}")
        assert KEY not in str(refused.value)


@pytest.mark.parametrize("user", ["user:secret@", "user@", ":secret@", "@"])
def test_a_key_and_a_user_in_the_url_exclude_each_other(user: str) -> None:
    seen: list[str | None] = []
    with service(200, seen) as url:
        both = url.replace("//", f"//{user}")
        with pytest.raises(SettingsError, match="FRAUDOPS_URL has a user") as refused:
            InferenceClient(both, credential=KEY)
        assert "secret" not in str(refused.value)
        assert KEY not in str(refused.value)
        with InferenceClient(both) as client:
            client.ready()
    assert len(seen) == 1


@pytest.mark.parametrize("key", ["fo_a b", "fo_a\n", "fo_ä", "fo_\x00", "fo_\ud800"])
def test_a_key_that_no_header_can_carry_is_a_mistake_of_the_user(key: str) -> None:
    with pytest.raises(SettingsError, match="FRAUDOPS_API_KEY is no API key") as refused:
        InferenceClient("http://127.0.0.1:1", credential=key)
    assert key not in str(refused.value)
    assert refused.value.__context__ is None
