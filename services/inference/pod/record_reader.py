"""Readers of the serving record: this machine's file, or the release's ConfigMap.

The ConfigMap is read with the standard library and the pod's own token. A Kubernetes client would
take 60 MB for one GET every few seconds.
"""

import json
import os
import ssl
import threading
from collections.abc import Callable
from http.client import HTTPException, HTTPSConnection
from pathlib import Path
from typing import Any

from fraudops.cluster.kept import is_marked
from fraudops.errors import StoreDownError
from fraudops.promotion.local import FileRecordStore
from fraudops.promotion.serving_record import (
    ServingRecord,
    ServingTarget,
    config_map_name,
    of_config_map,
)
from fraudops.settings import InferenceSettings
from fraudops.state import State

ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
SECONDS = 5.0


def record_reader(
    settings: InferenceSettings, account: Path = ACCOUNT
) -> Callable[[], ServingRecord | None]:
    """Return a function that reads the record; `account` has the files of a ServiceAccount.

    The function blocks. It returns None if there is no record, and raises RecordUnreadableError,
    StoreDownError or OSError.
    """
    if settings.cluster.release is None:
        return _file_reader(FileRecordStore(State.at(settings.state).serving_record))
    namespace = settings.cluster.namespace or (account / "namespace").read_text()
    return ConfigMapReader(settings.cluster.release, namespace, account).read


def _file_reader(store: FileRecordStore) -> Callable[[], ServingRecord | None]:
    def read() -> ServingRecord | None:
        record, content = store.read()
        return record if content else None

    return read


def template_target(settings: InferenceSettings) -> ServingTarget | None:
    """Return the target that the pod template named when this pod was made, or None."""
    return ServingTarget.parse(settings.rollout or "")


class ConfigMapReader:
    """Reads one ConfigMap by quorum GETs over one kept connection.

    Create it in the process whose threads use it.
    """

    def __init__(self, release: str, namespace: str, account: Path) -> None:
        self._path = f"/api/v1/namespaces/{namespace}/configmaps/{config_map_name(release)}"
        self._account = account
        self._lock = threading.Lock()
        self._connection: HTTPSConnection | None = None

    def read(self) -> ServingRecord | None:
        """Return the record, or None if there is none.

        A deletion or an edit may have emptied a record. So one that names no model counts only if
        it reserves a model, or has the mark `never-named` of the setup Job. Raises
        RecordUnreadableError, StoreDownError.
        """
        with self._lock:
            status, body = self._get()
        if status == 404:
            return None
        if status != 200:
            raise StoreDownError(f"the Kubernetes API answered {status} for the serving record")
        try:
            found = json.loads(body)
        except ValueError as error:
            raise StoreDownError(
                "the Kubernetes API answered with something that is not JSON"
            ) from error
        record = of_config_map(found)
        known = record.has_named_a_model or record.reserved is not None or is_marked(found)
        return record if known else None

    def _get(self) -> tuple[int, bytes]:
        """Get the ConfigMap's status and body; if a kept connection has ended, open a new one.

        Raises StoreDownError.
        """
        kept = self._connection is not None
        try:
            return self._exchange()
        except (OSError, HTTPException) as error:
            self.close()
            if not kept:
                raise StoreDownError(
                    f"the Kubernetes API does not answer ({type(error).__name__})"
                ) from error
        return self._get()

    def _exchange(self) -> tuple[int, bytes]:
        if self._connection is None:
            self._connection = self._connect()
        # The kubelet replaces the token while the pod lives, so read it for each request.
        headers = {
            "Authorization": f"Bearer {(self._account / 'token').read_text()}",
            "Accept": "application/json",
        }
        self._connection.request("GET", self._path, headers=headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def _connect(self) -> HTTPSConnection:
        context: Any = ssl.create_default_context(cafile=self._account / "ca.crt")
        port = int(os.environ.get("KUBERNETES_SERVICE_PORT", "443"))
        return HTTPSConnection(
            os.environ.get("KUBERNETES_SERVICE_HOST", "kubernetes.default.svc"),
            port,
            timeout=SECONDS,
            context=context,
        )

    def close(self) -> None:
        """Close the connection. The next read opens a new one."""
        if self._connection:
            self._connection.close()
            self._connection = None
