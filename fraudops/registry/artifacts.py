"""Files of a run behind MLflow's artifact proxy.

The registry is not trusted: number and size of the files are limited, and their names cannot lead
out of the folder of the download.
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
    """Return the path behind the proxy for an `mlflow-artifacts:/…` URI.

    Raises SettingsError for a URI of another kind of storage.
    """
    parts = urlsplit(uri)
    path = parts.path.strip("/")
    if parts.scheme in ("http", "https") and f"/{PROXY}/" in parts.path:
        path = parts.path.partition(f"/{PROXY}/")[2].strip("/")
    elif parts.scheme != "mlflow-artifacts" or parts.query or parts.fragment:
        raise SettingsError(
            f"the files are in {parts.scheme or 'a local'} storage, and the MLflow server does not "
            "serve them: start it with --serve-artifacts and train again"
        )
    return _checked(path)


def upload(api: MlflowApi, folder: str, name: str, data: bytes) -> None:
    if len(data) > MAX_FILE_BYTES:
        raise SettingsError(
            f"{name} holds {len(data)} bytes; the registry takes at most {MAX_FILE_BYTES}"
        )
    api.put(f"{PROXY}/{folder}/{_checked(name)}", data)


def download(api: MlflowApi, folder: str, name: str, limit: int = MAX_FILE_BYTES) -> bytes | None:
    """Return a file of a run, or None when the run has no such file.

    Raises BundleError for a file of more than `limit` bytes.
    """
    try:
        return b"".join(_chunks(api, f"{folder}/{_checked(name)}", limit))
    except MlflowAnswerError as error:
        if error.code == "RESOURCE_DOES_NOT_EXIST":
            return None
        raise


def download_folder(api: MlflowApi, source: str, folder: Path) -> None:
    """Download every file of `source` into `folder`, which must exist.

    Raises BundleError for files that cannot be those of a bundle.
    """
    listing = api.call("GET", PROXY, params={"path": source}).get("files", [])
    if not listing:
        raise BundleError(
            "the registry holds no file of this bundle: train again, or restore MLflow's artifacts"
        )
    if len(listing) > MAX_FILES:
        raise BundleError(f"the bundle has {len(listing)} files; at most {MAX_FILES} are allowed")
    remaining = MAX_BUNDLE_BYTES
    for entry in listing:
        remaining -= _download_file(api, source, entry, folder, remaining)


def _download_file(
    api: MlflowApi, source: str, entry: dict[str, Any], folder: Path, limit: int
) -> int:
    name = str(entry.get("path", ""))
    if entry.get("is_dir") or not _NAME.fullmatch(name):
        raise BundleError(
            "the bundle contains a folder or a file name that no bundle has: "
            "it was not made by `fraudops train`"
        )
    # The size is optional in MLflow's answer.
    expected, size = int(entry.get("file_size", -1)), 0
    with (folder / name).open("wb") as file:
        for chunk in _chunks(api, f"{source}/{name}", limit):
            size += file.write(chunk)
    if expected not in (-1, size):
        raise StoreDownError(f"only {size} of {expected} bytes of {name} arrived: try again")
    return size


def _chunks(api: MlflowApi, path: str, limit: int) -> Iterator[bytes]:
    size = 0
    with api.stream(f"{PROXY}/{path}") as chunks:
        for chunk in chunks:
            size += len(chunk)
            if size > limit:
                name = path.rpartition("/")[2]
                raise BundleError(
                    f"{name} is larger than the {limit} bytes that are still allowed: "
                    "fraudops did not write it"
                )
            yield chunk


def _checked(path: str) -> str:
    if not path or not all(_NAME.fullmatch(part) for part in path.split("/")):
        raise SettingsError(
            "an artifact path may hold only names of letters, digits, '.', '_' and '-', "
            "and no parent folder"
        )
    return path
