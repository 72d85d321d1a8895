"""Files of a run behind MLflow's artifact proxy.

The registry is not trusted: the size of a file is limited, and a name cannot lead out of the run's
folder. See fraudops.model.bundle_download for the files of a bundle.
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

from fraudops.errors import BundleError, SettingsError
from fraudops.model.bundle_download import download_files
from fraudops.registry.api import MlflowAnswerError, MlflowApi

PROXY = "mlflow-artifacts/artifacts"
BUNDLE = "bundle"
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


def download_folder(api: MlflowApi, source: str, folder: Path, digest: str) -> None:
    """Download the bundle in `source` into `folder`.

    Raises BundleError for files that cannot be those of the bundle `digest`.
    """
    download_files(partial(_open_file, api, source), folder, digest)


@contextmanager
def _open_file(api: MlflowApi, source: str, name: str) -> Iterator[Iterator[bytes]]:
    try:
        with api.stream(f"{PROXY}/{source}/{name}") as chunks:
            yield chunks
    except MlflowAnswerError as error:
        if error.code != "RESOURCE_DOES_NOT_EXIST":
            raise
        raise BundleError(
            f"the registry does not hold the bundle's {name}: "
            "train again, or restore MLflow's artifacts"
        ) from error


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
