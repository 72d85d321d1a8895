"""The Kubernetes API as JSON in and out. Only this module imports the Kubernetes client."""

import asyncio
import os
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from datetime import datetime
from email.utils import parsedate_to_datetime
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
# After this silence a followed log is requested again. A dead connection gives no other sign.
SILENCE_SECONDS = 30.0
ORDINARY = aiohttp.ClientTimeout(total=TIMEOUT_SECONDS)
FOLLOWING = aiohttp.ClientTimeout(
    total=None, sock_connect=TIMEOUT_SECONDS, sock_read=SILENCE_SECONDS
)
# What the client raises for a kubeconfig that it cannot read. TypeError: the file is empty.
UNREADABLE = (OSError, TypeError, yaml.YAMLError)
CHANNEL_PROTOCOLS = ("v5.channel.k8s.io", "v4.channel.k8s.io")
CONTENT_TYPES = {"merge": "application/merge-patch+json", "json": "application/json-patch+json"}


Object = dict[str, Any]


class NotFoundError(FraudopsError):
    """The object, or the namespace, does not exist."""


class ForbiddenError(FraudopsError):
    """The caller is unknown, or may not do this."""


class Cluster:
    """Client of one namespace of one cluster.

    It repeats no request. A caller that repeats one waits first. Only aiohttp repeats a GET or a
    DELETE once if the server has closed the idle connection.
    """

    def __init__(self, api: client.ApiClient, namespace: str) -> None:
        self._api, self.namespace = api, namespace

    @classmethod
    @asynccontextmanager
    async def connect(cls, namespace: str | None = None) -> AsyncIterator["Cluster"]:
        """Connect by the pod's ServiceAccount, or else by the kubeconfig.

        Raises StoreDownError if neither exists.
        """
        settings = client.Configuration()
        try:
            if os.environ.get("KUBERNETES_SERVICE_HOST"):
                config.load_incluster_config(client_configuration=settings)
            else:
                # The client itself reads KUBECONFIG only once, when it is imported.
                file = os.environ.get("KUBECONFIG") or None
                await config.load_kube_config(file, client_configuration=settings)
                namespace = namespace or _namespace_of_context(file)
        except config.ConfigException as error:
            raise StoreDownError(
                f"no Kubernetes cluster is known here ({error}); "
                "set KUBECONFIG to a kubeconfig with a current context"
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
        """Return the path of an object, or of all objects of a kind.

        It looks like `/api/v1/namespaces/NS/configmaps/NAME`. `group` is `v1`, `apps/v1`, ...
        """
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
    ) -> Object:
        """Send one request and return the JSON of its answer.

        `patch` is "merge" or "json", and counts only for PATCH. Raises

        - NotFoundError (404) and ForbiddenError (401, 403);
        - StaleRecordError: the object exists already or has changed (409), or a `test` of a JSON
          patch failed (422);
        - StoreDownError: the API cannot be connected to, or did not answer a GET;
        - UnknownWriteError: the API did not answer a write, or answered 429 or at least 500;
        - FraudopsError: any other refusal, with the API's message.
        """
        return (await self._call(method, path, body, patch, query))[0]

    async def select(self, path: str, selector: str) -> tuple[Sequence[Object], datetime | None]:
        """Return the objects that the label selector matches, and the API server's own time.

        The time is that of the answer, in whole seconds. It is None if the answer has none. Raises
        as `call` does.
        """
        found, at = await self._call("GET", path, query={"labelSelector": selector})
        return found["items"], at

    async def _call(
        self,
        method: str,
        path: str,
        body: Any = None,
        patch: str = "merge",
        query: dict[str, str] | None = None,
    ) -> tuple[Object, datetime | None]:
        content_type = CONTENT_TYPES[patch] if method == "PATCH" else "application/json"
        try:
            answer = await self._request(method, path, query, body, content_type)
            data = await answer.read()
        except aiohttp.ClientConnectorError as error:
            # The request was never sent, so a write has certainly not happened.
            raise StoreDownError(
                f"the Kubernetes API does not answer ({type(error).__name__})"
            ) from error
        except (TimeoutError, aiohttp.ClientError) as error:
            raise _unanswered(method, f"did not answer in time ({type(error).__name__})") from error
        return _answer(method, path, answer.status, data), _date(answer.headers.get("Date"))

    async def fetch(self, path: str) -> tuple[int, bytes]:
        """Return the status and the body of any answer, such as a pod's through the API server.

        Raises StoreDownError if there is no answer.
        """
        try:
            answer = await self._request("GET", path)
            return answer.status, bytes(await answer.read())
        except (TimeoutError, aiohttp.ClientError) as error:
            raise StoreDownError(
                f"the Kubernetes API does not answer ({type(error).__name__})"
            ) from error

    async def lines(self, path: str, query: dict[str, str] | None = None) -> AsyncGenerator[bytes]:
        """Yield the lines of a text as they arrive, such as a followed log, without their ends.

        It ends with the text, and also after SILENCE_SECONDS or when the connection breaks. The
        caller then asks again from the last line on. Raises as `call` does.
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
        """Yield the standard streams of a running container. Raises as `call` does."""
        query = [
            ("container", container),
            ("stdin", "true"),
            ("stdout", "true"),
            ("stderr", "true"),
        ]
        async with self._streams(self.path("v1", "pods", f"{pod}/attach"), query) as attached:
            yield attached

    async def execute(self, pod: str, container: str, command: Sequence[str]) -> bytes:
        """Return the standard output of a short command in a running container.

        Raises as `call` does.
        """
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
        timeout: aiohttp.ClientTimeout | None = None,  # noqa: ASYNC109 (aiohttp's, for its parts)
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
        return await self._api.call_api(*request, _request_timeout=timeout or ORDINARY)


class Attached:
    """Standard input, output and error of a container, over one connection."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket

    async def send(self, data: bytes) -> None:
        """Send to standard input. It waits while the container does not read."""
        await self._socket.send_bytes(b"\0" + data)

    async def received(self) -> AsyncIterator[tuple[int, bytes]]:
        """Yield what the container writes, until it ends.

        The number is 1 for its standard output and 2 for its standard error.
        """
        async for message in self._socket:
            if (
                message.type == aiohttp.WSMsgType.BINARY
                and len(message.data) > 1
                and message.data[0] in (1, 2)
            ):
                yield message.data[0], message.data[1:]


async def _lines_of(response: aiohttp.ClientResponse) -> AsyncGenerator[bytes]:
    """Yield whole lines. What a broken connection cut off is not a line."""
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


def _answer(method: str, path: str, status: int, data: bytes) -> Object:
    where = path.split("/namespaces/")[-1]
    try:
        body = msgspec.json.decode(data or b"{}", type=Object)
    except msgspec.MsgspecError as error:
        if status < 300:
            # A proxy may have answered in the API's place, so a write may not have happened.
            raise _unanswered(method, f"answered {where} with something other than JSON") from error
        body = {}
    if status < 300:
        return body
    message = str(body.get("message") or "no reason given")
    if status == 404:
        raise NotFoundError(f"{where} is not there")
    if status == 401:
        raise ForbiddenError(
            f"the Kubernetes API does not accept this caller's credentials ({message}); "
            "log in again, or check the kubeconfig"
        )
    if status == 403:
        raise ForbiddenError(f"{method} {where} is not allowed to this caller: {message}")
    if status == 409 or (status == 422 and method == "PATCH" and _test_failed(body)):
        raise StaleRecordError(f"another writer has changed {where}")
    if status >= 500 or status == 429:
        raise _unanswered(method, f"answered {status} for {where}: {message}")
    raise FraudopsError(f"the Kubernetes API answered {status} for {method} {where}: {message}")


def _unanswered(method: str, what: str) -> FraudopsError:
    """Return the error for a request of which only a read is known to have changed nothing."""
    kind = StoreDownError if method == "GET" else UnknownWriteError
    return kind(f"the Kubernetes API {what}")


def _test_failed(body: Object) -> bool:
    """Tell a failed `test` of a JSON patch from an invalid object: both are 422.

    The API names the causes of an invalid object, and says nothing about a failed `test`.
    """
    return not (body.get("details") or {}).get("causes")


def _date(header: str | None) -> datetime | None:
    try:
        return parsedate_to_datetime(header) if header else None
    except ValueError:
        return None


def _namespace_of_context(file: str | None) -> str | None:
    _, active = config.list_kube_config_contexts(file)
    namespace = (active or {}).get("context", {}).get("namespace")
    return str(namespace) if namespace else None


def _unusable(error: Exception) -> StoreDownError:
    # Only the type: the message may quote a token of the file.
    return StoreDownError(
        f"the kubeconfig or the pod's account cannot be used ({type(error).__name__}): "
        "check the file that KUBECONFIG names, and its certificates"
    )
