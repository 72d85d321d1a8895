"""The Kubernetes API as JSON in and out: the one module that imports the Kubernetes client."""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec
import yaml
from kubernetes.aio import client, config

from fraudops.errors import FraudopsError, StoreDownError
from fraudops.promotion.ports import StaleRecordError, UnknownWriteError
from fraudops.proxies import goes_direct

TIMEOUT_SECONDS = 10.0
# A followed log that says nothing for so long is asked for again: its connection may be gone
# without a word.
SILENCE_SECONDS = 30.0
ORDINARY = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
FOLLOWING = aiohttp.ClientTimeout(
    total=None, sock_connect=TIMEOUT_SECONDS, sock_read=SILENCE_SECONDS
)
# What the client raises for a kubeconfig that it cannot read. TypeError: the file is empty.
UNREADABLE = (OSError, TypeError, yaml.YAMLError)
CHANNEL_PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
CONTENT_TYPES = {"merge": "application/merge-patch+json", "json": "application/json-patch+json"}


class NotFoundError(FraudopsError):
    """The object is not there."""


class ForbiddenError(FraudopsError):
    """The ServiceAccount may not do this."""


class Cluster:
    """One namespace of one cluster."""

    def __init__(self, api: client.ApiClient, namespace: str) -> None:
        self._api, self.namespace = api, namespace

    @classmethod
    @asynccontextmanager
    async def connect(cls, namespace: str | None = None) -> AsyncIterator["Cluster"]:
        """By the pod's ServiceAccount, else by the kubeconfig.

        Raises StoreDownError when there is neither.
        """
        settings = client.Configuration()
        try:
            if os.environ.get("KUBERNETES_SERVICE_HOST"):
                config.load_incluster_config(client_configuration=settings)
            else:
                await config.load_kube_config(client_configuration=settings)
                namespace = namespace or _namespace_of_context()
        except config.ConfigException as error:
            raise StoreDownError(
                f"no Kubernetes cluster is known here ({error}); "
                "set KUBECONFIG, or leave --on-cluster away"
            ) from error
        except UNREADABLE as error:
            raise _unusable(error) from error
        host = urlsplit(settings.host).hostname or ""
        # The client reads HTTPS_PROXY by default. A `proxy-url` in the kubeconfig still counts.
        settings.client_session_kwargs = {"trust_env": not goes_direct(host)}
        try:
            made = client.ApiClient(configuration=settings)
        except OSError as error:
            # A certificate that cannot be read. ssl.SSLError is an OSError.
            raise _unusable(error) from error
        async with made as api:
            yield cls(api, namespace or "default")

    def path(self, group: str, kind: str, name: str = "") -> str:
        """`/api/v1/namespaces/NS/configmaps/NAME`; `group` is `v1` or `apps/v1`."""
        root = "/api/v1" if group == "v1" else f"/apis/{group}"
        return f"{root}/namespaces/{self.namespace}/{kind}{f'/{name}' if name else ''}"

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        patch: str = "merge",
        query: dict[str, str] | None = None,
    ) -> dict[str, Any]:
        """The answer's JSON.

        Raises NotFoundError, ForbiddenError, StaleRecordError (409), UnknownWriteError (an
        unanswered write), StoreDownError.
        """
        try:
            answer = await self._request(
                method,
                path,
                query,
                body,
                CONTENT_TYPES[patch] if method == "PATCH" else "application/json",
            )
            data = await answer.read()
        except aiohttp.ClientConnectorError as error:
            raise StoreDownError(
                f"the Kubernetes API does not answer ({type(error).__name__})"
            ) from error
        except (TimeoutError, aiohttp.ClientError) as error:
            if method == "GET":
                raise StoreDownError(
                    f"the Kubernetes API did not answer in time ({type(error).__name__})"
                ) from error
            raise UnknownWriteError(
                f"the Kubernetes API did not answer a write ({type(error).__name__})"
            ) from error
        return _answer(method, path, answer.status, data)

    async def fetch(self, path: str) -> tuple[int, bytes]:
        """Status and body of whatever answers, such as a pod behind the API server's proxy.

        Raises StoreDownError when nothing does.
        """
        try:
            answer = await self._request("GET", path)
            return answer.status, bytes(await answer.read())
        except (TimeoutError, aiohttp.ClientError) as error:
            raise StoreDownError(
                f"the Kubernetes API does not answer ({type(error).__name__})"
            ) from error

    async def lines(self, path: str, query: dict[str, str] | None = None) -> AsyncGenerator[bytes]:
        """The lines of a text as they come, such as a followed log, without their ends.

        Ends with the text, and after SILENCE_SECONDS or a broken connection too: ask again from
        the last line on. Raises like `call`.
        """
        try:
            answer = await self._request("GET", path, query, timeout=FOLLOWING)
            if answer.status >= 300:
                _answer("GET", path, answer.status, bytes(await answer.read()))
        except (TimeoutError, aiohttp.ClientError) as error:
            raise StoreDownError(
                f"the Kubernetes API does not answer ({type(error).__name__})"
            ) from error
        async with aclosing(_lines_of(answer.response)) as found:
            async for line in found:
                yield line

    @asynccontextmanager
    async def attach(self, pod: str, container: str) -> AsyncIterator["Attached"]:
        """The standard streams of a running container. Raises like `call`."""
        query = [
            ("container", container),
            ("stdin", "true"),
            ("stdout", "true"),
            ("stderr", "true"),
        ]
        async with self._streams(self.path("v1", "pods", f"{pod}/attach"), query) as attached:
            yield attached

    async def execute(self, pod: str, container: str, command: Sequence[str]) -> bytes:
        """The standard output of a short command in a running container. Raises like `call`."""
        query = [
            ("container", container),
            ("stdout", "true"),
            *(("command", word) for word in command),
        ]
        try:
            async with (
                asyncio.timeout(TIMEOUT_SECONDS),
                self._streams(self.path("v1", "pods", f"{pod}/exec"), query) as attached,
            ):
                return b"".join([data async for stream, data in attached.received() if stream == 1])
        except TimeoutError as error:
            raise StoreDownError(
                f"a command in pod {pod} did not end in {TIMEOUT_SECONDS:g} s"
            ) from error

    @asynccontextmanager
    async def _streams(self, path: str, query: list[tuple[str, str]]) -> AsyncIterator["Attached"]:
        _, url, headers, *_ = await self._api.param_serialize(
            "GET", path, query_params=query, auth_settings=["BearerToken"]
        )
        session = self._api.rest_client.pool_manager or self._api.rest_client._create_pool_manager()
        self._api.rest_client.pool_manager = session
        try:
            async with session.ws_connect(
                url, headers=headers, protocols=CHANNEL_PROTOCOLS, heartbeat=TIMEOUT_SECONDS
            ) as socket:
                yield Attached(socket)
        except aiohttp.WSServerHandshakeError as error:
            _answer("POST", path, error.status, b"")
        except (aiohttp.ClientError, ConnectionError) as error:
            raise StoreDownError(
                f"the connection to {path.rpartition('/pods/')[2]} broke ({type(error).__name__})"
            ) from error

    async def _request(
        self,
        method: str,
        path: str,
        query: dict[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        timeout: aiohttp.ClientTimeout = ORDINARY,  # noqa: ASYNC109 (aiohttp's, for its parts)
    ) -> Any:
        headers = {"Accept": "application/json, */*", "Content-Type": content_type}
        request = await self._api.param_serialize(
            method,
            path,
            query_params=list((query or {}).items()),
            header_params=headers,
            body=body,
            auth_settings=["BearerToken"],
        )
        return await self._api.call_api(*request, _request_timeout=timeout)


class Attached:
    """Standard input, output and error of a container, over one connection."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket

    async def send(self, data: bytes) -> None:
        """Waits while the container does not read."""
        await self._socket.send_bytes(b"\0" + data)

    async def received(self) -> AsyncIterator[tuple[int, bytes]]:
        """What the container writes: 1 for its standard output, 2 for its standard error, until it
        ends.
        """
        async for message in self._socket:
            if (
                message.type == aiohttp.WSMsgType.BINARY
                and len(message.data) > 1
                and message.data[0] in (1, 2)
            ):
                yield message.data[0], message.data[1:]


async def _lines_of(response: aiohttp.ClientResponse) -> AsyncGenerator[bytes]:
    """What a broken connection cut off is no line."""
    left = b""
    try:
        async for chunk in response.content.iter_any():
            *lines, left = (left + chunk).split(b"\n")
            for line in lines:
                yield line
    except (TimeoutError, aiohttp.ClientError):
        return
    finally:
        response.close()
    if left:
        yield left


def _answer(method: str, path: str, status: int, data: bytes) -> dict[str, Any]:
    if status < 300:
        return dict(msgspec.json.decode(data)) if data else {}
    try:
        message = str(msgspec.json.decode(data).get("message", ""))
    except (msgspec.DecodeError, AttributeError):
        message = ""
    where = path.split("/namespaces/")[-1]
    if status == 404:
        raise NotFoundError(f"{where} is not there")
    if status == 403:
        raise ForbiddenError(f"{method} {where} is not allowed to this caller: {message}")
    if status == 409 or (status == 422 and method == "PATCH"):
        raise StaleRecordError(f"{where} has been written by somebody else")
    if status >= 500 or status == 429:
        if method == "GET":
            raise StoreDownError(f"the Kubernetes API answered {status} for {where}")
        raise UnknownWriteError(f"the Kubernetes API answered {status} for {where}")
    raise FraudopsError(f"the Kubernetes API answered {status} for {method} {where}: {message}")


def _namespace_of_context() -> str | None:
    _, active = config.list_kube_config_contexts()
    namespace = (active or {}).get("context", {}).get("namespace")
    return str(namespace) if namespace else None


def _unusable(error: Exception) -> StoreDownError:
    # Only the type: the message may quote a token of the file.
    return StoreDownError(
        f"the kubeconfig or the pod's account cannot be used ({type(error).__name__}): "
        "check the file that KUBECONFIG names, and its certificates"
    )
