"""Files of a run behind MLflow's artifact proxy: bounded in number and size, and never written
outside the folder asked for.
"""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from fraudops.errors import BundleError, SettingsError, StoreDownError
from fraudops.registry.api import MlflowAnswerError, MlflowApi

PROXY = "mlflow-artifacts/artifacts"
BUNDLE = "bundle"
MAX_FILES = 64
MAX_BUNDLE_BYTES = 1 << 30
MAX_FILE_BYTES = 128 << 20
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")


def proxied_path(uri: str) -> str:
    """The path behind the proxy of an `mlflow-artifacts:/…` uri.

    Raises SettingsError for any other place.
    """
    parts = urlsplit(uri)
    path = parts.path.strip("/")
    if parts.scheme in ("http", "https") and f"/{PROXY}/" in parts.path:
        path = parts.path.partition(f"/{PROXY}/")[2].strip("/")
    elif parts.scheme != "mlflow-artifacts" or parts.query or parts.fragment:
        raise SettingsError(
            f"the files lie at {parts.scheme or 'a local'} storage, not behind the MLflow server: start it with --serve-artifacts and train again"
        )
    return _checked(path)


def upload(api: MlflowApi, folder: str, name: str, data: bytes) -> None:
    if len(data) > MAX_FILE_BYTES:
        raise SettingsError(
            f"{name} holds {len(data)} bytes; at most {MAX_FILE_BYTES} go to the registry"
        )
    api.put(f"{PROXY}/{folder}/{_checked(name)}", data)


def download(api: MlflowApi, folder: str, name: str) -> bytes | None:
    """None when the run has no such file."""
    try:
        return b"".join(_chunks(api, f"{folder}/{_checked(name)}", MAX_FILE_BYTES))
    except MlflowAnswerError as error:
        if error.code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def download_folder(api: MlflowApi, source: str, folder: Path) -> None:
    """Streams every file below `source` into `folder`, which must exist.

    Raises BundleError for what no bundle can hold.
    """
    listing = api.call("GET", PROXY, params={"path": source}).get("files", [])
    if not listing:
        raise BundleError(
            "the registry holds no file of this bundle: train again, or restore MLflow's artifacts"
        )
    if len(listing) > MAX_FILES:
        raise BundleError(f"the bundle lists {len(listing)} files; at most {MAX_FILES} are taken")
    left = MAX_BUNDLE_BYTES
    for entry in listing:
        left -= _download_file(api, source, entry, folder, left)


def _download_file(
    api: MlflowApi, source: str, entry: dict[str, Any], folder: Path, limit: int
) -> int:
    name = str(entry.get("path", ""))
    if entry.get("is_dir") or not _NAME.fullmatch(name):
        raise BundleError(
            "the bundle lists a folder or a name that no bundle has: it was not made by `fraudops train`"
        )
    expected, size = int(entry.get("file_size", -1)), 0
    with (folder / name).open("wb") as file:
        for chunk in _chunks(api, f"{source}/{name}", limit):
            size += file.write(chunk)
    if expected not in (-1, size):
        raise StoreDownError(f"{name} came with {size} of {expected} bytes: try again")
    return size


def _chunks(api: MlflowApi, path: str, limit: int) -> Iterator[bytes]:
    size = 0
    with api.stream(f"{PROXY}/{path}") as chunks:
        for chunk in chunks:
            size += len(chunk)
            if size > limit:
                raise BundleError(
                    f"{path.rpartition('/')[2]} is larger than the {limit} bytes that are left to it: nothing was kept"
                )
            yield chunk


def _checked(path: str) -> str:
    if not path or not all(_NAME.fullmatch(part) for part in path.split("/")):
        raise SettingsError(
            "an artifact path may hold only names of letters, digits, '.', '_' and '-', and no folder upwards"
        )
    return path
