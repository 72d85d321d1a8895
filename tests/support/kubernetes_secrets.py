"""A small HTTP server with the part of the Kubernetes API that setup and backup use.

It stores objects by their path in the namespace: POST (409 for an object that exists, also for a
dry run), GET of an object or of all of a kind, and a merge patch, which is refused with 409 when it
names an old resourceVersion.
"""

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tests.support.kube_objects import patched


@dataclass
class StoredObjects:
    """The objects by path, without the namespace; `before_write` runs before each patch."""

    objects: dict[str, dict[str, Any]] = field(default_factory=dict)
    patches: list[dict[str, Any]] = field(default_factory=list)
    before_write: Callable[[], None] = lambda: None
    url: str = ""

    def store(self, path: str, manifest: dict[str, Any]) -> dict[str, Any]:
        """Store an object under a new resourceVersion; `stringData` replaces keys of `data`."""
        stored = json.loads(json.dumps(manifest))
        version = int(
            self.objects.get(path, {"metadata": {}})["metadata"].get("resourceVersion", 0)
        )
        stored["metadata"]["resourceVersion"] = str(version + 1)
        for key, value in stored.pop("stringData", {}).items():
            stored.setdefault("data", {})[key] = base64.b64encode(value.encode()).decode()
        self.objects[path] = stored
        return stored

    def values(self, name: str) -> dict[str, str]:
        """Return the decoded content of a Secret."""
        data = self.objects[f"secrets/{name}"].get("data", {})
        return {key: base64.b64decode(value).decode() for key, value in data.items()}

    def answer(
        self, method: str, path: str, body: dict[str, Any], dry_run: bool = False
    ) -> tuple[int, dict[str, Any]]:
        if method == "POST":
            path = f"{path}/{body['metadata']['name']}"
            if path in self.objects:
                return 409, {}
            return 201, body if dry_run else self.store(path, body)
        if method == "PATCH":
            self.before_write()
        found = self.objects.get(path)
        if method == "GET" and "/" not in path:
            kind = f"{path}/"
            return 200, {"items": [x for at, x in self.objects.items() if at.startswith(kind)]}
        if found is None:
            return 404, {}
        if method == "GET":
            return 200, found
        known = found["metadata"]["resourceVersion"]
        if body.get("metadata", {}).get("resourceVersion", known) != known:
            return 409, {}
        self.patches.append(body)
        return 200, self.store(path, patched(found, "application/merge-patch+json", body))


@contextmanager
def serve_objects(folder: Path) -> Iterator[tuple[StoredObjects, Path]]:
    """Serve objects until the end of the block; yield them and a kubeconfig for the server."""
    stored = StoredObjects()

    class ObjectsHandler(BaseHTTPRequestHandler):
        def _handle(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            body = json.loads(self.rfile.read(length) or b"{}")
            path, _, query = self.path.partition("?")
            name = path.partition("/namespaces/default/")[2]
            status, found = stored.answer(self.command, name, body, "dryRun=All" in query)
            content = json.dumps(found).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PATCH = _handle

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), ObjectsHandler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield stored, write_kubeconfig(folder, f"http://127.0.0.1:{server.server_port}")
        finally:
            server.shutdown()
            thread.join()


def write_kubeconfig(folder: Path, url: str, **more: str) -> Path:
    """Write a kubeconfig for an API server at `url`, and return its path.

    `more` are further fields of the cluster, with `_` for `-`.
    """
    cluster = {"server": url} | {key.replace("_", "-"): value for key, value in more.items()}
    path = folder / "kubeconfig"
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": {"token": "t"}}],
    }
    path.write_text(json.dumps(config))
    return path
