"""The Kubernetes API as JSON in and out: the one module that imports the Kubernetes client."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import aiohttp
import msgspec
from kubernetes.aio import client, config

from fraudops.errors import FraudopsError, StoreDownError
from fraudops.promotion.ports import StaleRecordError, UnknownWriteError

TIMEOUT_SECONDS = 10.0
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
        """By the pod's ServiceAccount, else by the kubeconfig. Raises StoreDownError when there is neither."""
        settings = client.Configuration()
        try:
            if os.environ.get("KUBERNETES_SERVICE_HOST"):
                config.load_incluster_config(client_configuration=settings)
            else:
                await config.load_kube_config(client_configuration=settings)
                namespace = namespace or _namespace_of_context()
        except config.ConfigException as error:
            raise StoreDownError(f"no Kubernetes cluster is known here ({error}); set KUBECONFIG, or leave --on-cluster away") from error
        async with client.ApiClient(configuration=settings) as api:
            yield cls(api, namespace or "default")

    def path(self, group: str, kind: str, name: str = "") -> str:
        """`/api/v1/namespaces/NS/configmaps/NAME`; `group` is `v1` or `apps/v1`."""
        root = "/api/v1" if group == "v1" else f"/apis/{group}"
        return f"{root}/namespaces/{self.namespace}/{kind}{f'/{name}' if name else ''}"

    async def call(self, method: str, path: str, body: Any = None, *, patch: str = "merge", query: dict[str, str] | None = None) -> dict[str, Any]:
        """The answer's JSON. Raises NotFoundError, ForbiddenError, StaleRecordError (409), UnknownWriteError (an unanswered write), StoreDownError."""
        headers = {"Accept": "application/json", "Content-Type": CONTENT_TYPES[patch] if method == "PATCH" else "application/json"}
        request = await self._api.param_serialize(
            method, path, query_params=list((query or {}).items()), header_params=headers, body=body, auth_settings=["BearerToken"]
        )
        try:
            answer = await self._api.call_api(*request, _request_timeout=TIMEOUT_SECONDS)
            data = await answer.read()
        except aiohttp.ClientConnectorError as error:
            raise StoreDownError(f"the Kubernetes API does not answer ({type(error).__name__})") from error
        except (TimeoutError, aiohttp.ClientError) as error:
            if method == "GET":
                raise StoreDownError(f"the Kubernetes API did not answer in time ({type(error).__name__})") from error
            raise UnknownWriteError(f"the Kubernetes API did not answer a write ({type(error).__name__})") from error
        return _answer(method, path, answer.status, data)

    async def text(self, path: str, query: dict[str, str] | None = None) -> str:
        """A plain-text answer, such as a container's log."""
        request = await self._api.param_serialize("GET", path, query_params=list((query or {}).items()), auth_settings=["BearerToken"])
        try:
            answer = await self._api.call_api(*request, _request_timeout=TIMEOUT_SECONDS)
            data = await answer.read()
        except (TimeoutError, aiohttp.ClientError) as error:
            raise StoreDownError(f"the Kubernetes API does not answer ({type(error).__name__})") from error
        if answer.status >= 300:
            _answer("GET", path, answer.status, data)
        return bytes(data).decode(errors="replace")


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
        raise ForbiddenError(f"{method} {where} is not allowed to this ServiceAccount: {message}")
    if status in (409, 422) and method in ("PUT", "PATCH", "POST"):
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
