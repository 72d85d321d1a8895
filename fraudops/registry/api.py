"""Calls to an MLflow server, with errors that a user can act on."""

import weakref
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import httpx
import msgspec

from fraudops.errors import SettingsError, StoreDownError
from fraudops.proxies import UNUSABLE, goes_direct
from fraudops.urls import (
    malformed,
    split_url,
    unreadable_certificates,
    without_credentials,
)

API = "/api/2.0"
# uvicorn closes an idle connection after 5 s. A client that keeps it for as long sometimes sends a
# request just while the server closes it, and the request fails.
KEEPALIVE_SECONDS = 2.0


class MlflowAnswerError(SettingsError):
    """MLflow understood the call and refused it.

    `code` is MLflow's error code, for example RESOURCE_DOES_NOT_EXIST.
    """

    def __init__(self, message: str, code: str) -> None:
        super().__init__(message)
        self.code = code


class MlflowApi:
    """A client of MLflow's REST API.

    Thread-safe. Connections stay open until `close`, or until the garbage collector frees the
    client.
    """

    def __init__(self, url: str, timeout_seconds: float) -> None:
        try:
            shown = without_credentials(split_url(url, "MLFLOW_TRACKING_URI"))
            parsed = httpx.URL(url)
        except httpx.InvalidURL:
            raise malformed("MLFLOW_TRACKING_URI") from None
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise SettingsError(
                "MLFLOW_TRACKING_URI must begin with http:// or https:// and name a host, "
                "such as http://mlflow:5000"
            )
        self.url = shown.rstrip("/")
        try:
            self._client = httpx.Client(
                base_url=parsed.copy_with(path=parsed.path.rstrip("/") + API + "/"),
                timeout=timeout_seconds,
                limits=httpx.Limits(keepalive_expiry=KEEPALIVE_SECONDS),
                trust_env=not goes_direct(parsed.host),
                # A client that bypasses the proxy reads no variable, SSL_CERT_FILE included.
                verify=httpx.create_ssl_context(),
            )
        except (httpx.InvalidURL, ValueError, ImportError):
            raise SettingsError(UNUSABLE) from None
        except OSError as error:
            raise unreadable_certificates(error) from error
        self._close = weakref.finalize(self, self._client.close)

    def close(self) -> None:
        self._close()

    def call(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Call MLflow and return the JSON object of its answer.

        Raises StoreDownError, MlflowAnswerError.
        """
        content = None if body is None else msgspec.json.encode(body)
        headers = {} if body is None else {"content-type": "application/json"}
        with self._translated():
            response = self._client.request(
                method, path, params=params, content=content, headers=headers
            )
        self._check(response)
        return self._object(response)

    def put(self, path: str, data: bytes) -> None:
        with self._translated():
            response = self._client.put(
                path, content=data, headers={"content-type": "application/octet-stream"}
            )
        self._check(response)

    @contextmanager
    def stream(self, path: str) -> Iterator[Iterator[bytes]]:
        """Open a stored file and yield its chunks.

        Raises the errors of `call`, also while the caller reads the chunks.
        """
        headers = {"accept-encoding": "identity"}
        with self._translated(), self._client.stream("GET", path, headers=headers) as response:
            if not response.is_success:
                response.read()
            self._check(response)
            yield response.iter_bytes(1 << 20)

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except httpx.HTTPError as error:
            raise StoreDownError(
                f"MLflow at {self.url} does not answer ({type(error).__name__}): "
                "see `fraudops status`, or check MLFLOW_TRACKING_URI and try again"
            ) from error

    def _check(self, response: httpx.Response) -> None:
        status = response.status_code
        if response.is_success:
            return
        # MLflow protects itself against DNS rebinding: it refuses a Host header that it was not
        # started for.
        if status == 403 and "host" in response.text[:200].lower():
            host = response.request.url.netloc.decode()
            raise StoreDownError(
                f"MLflow at {self.url} refuses the host name {host}: "
                f"start it with --allowed-hosts {host} (MLFLOW_SERVER_ALLOWED_HOSTS)"
            )
        if status in (401, 403):
            raise StoreDownError(
                f"MLflow at {self.url} refuses the caller ({status}): "
                "check the credentials in MLFLOW_TRACKING_URI"
            )
        if status >= 500 or status in (408, 429):
            raise StoreDownError(
                f"MLflow at {self.url} fails with {status}: "
                "see its log and its database, and try again"
            )
        answer = self._object(response)
        raise MlflowAnswerError(
            f"MLflow at {self.url} refuses the call: {answer.get('message', status)}",
            str(answer.get("error_code", "")),
        )

    def _object(self, response: httpx.Response) -> dict[str, Any]:
        try:
            return msgspec.json.decode(response.content, type=dict[str, Any])
        except msgspec.MsgspecError as error:
            raise StoreDownError(
                f"the answer of {self.url} is not from MLflow's API ({response.status_code}): "
                "check MLFLOW_TRACKING_URI"
            ) from error
