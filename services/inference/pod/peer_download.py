"""Downloads a bundle from another pod of the release, so that a new pod needs no registry.

The bundle verifier tries it before MLflow.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import httpx
import msgspec

from fraudops.errors import FraudopsError, StoreDownError
from fraudops.extensible import decode_document
from fraudops.model.manifest import FILE_NAME, MANIFEST, check_files, read_manifest
from fraudops.signing.credentials import Credentials
from fraudops.signing.kept import SUFFIX, KeptCredentials, without_mark

TIMEOUT = httpx.Timeout(10.0, connect=1.0)
# The file has about 6 kB. A defective peer must not fill the memory.
MAX_CREDENTIALS_BYTES = 1 << 20
# As for a bundle of the registry.
MAX_FILE_BYTES = 1 << 30


def download(urls: Sequence[str], token: str, digest: str, folder: Path) -> None:
    """Fetch the bundle into `folder` from the first pod that has it.

    The files are checked against the digest, so that a pod with an altered file does not hide the
    next one. The caller verifies the rest. Raises StoreDownError when no pod has the bundle.
    """
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(headers=headers, timeout=TIMEOUT, trust_env=False) as client:
        for url in urls:
            try:
                _fetch(client, f"{url}/bundles/{digest}", digest, folder)
            except (httpx.HTTPError, FraudopsError):
                continue
            return
    raise StoreDownError("no other pod has it")


def credentials(urls: Sequence[str], token: str, digest: str) -> list[Credentials]:
    """Return the credentials that other pods keep for the bundle, without any mark.

    They are not verified. A pod that has none, or does not answer, is skipped.
    """
    headers, found = {"Authorization": f"Bearer {token}"}, list[Credentials]()
    with httpx.Client(headers=headers, timeout=TIMEOUT, trust_env=False) as client:
        for url in urls:
            with contextlib.suppress(httpx.HTTPError, msgspec.MsgspecError):
                data = _read(client, f"{url}/bundles/{digest}{SUFFIX}")
                # A peer's mark of an unsigned version proves nothing.
                found.append(without_mark(decode_document(data, KeptCredentials)))
    return found


def _read(client: httpx.Client, url: str) -> bytes:
    """Return the start of an answer, at least the whole of a file of credentials."""
    data = b""
    with client.stream("GET", url) as answer:
        answer.raise_for_status()
        for part in answer.iter_bytes():
            data += part
            if len(data) > MAX_CREDENTIALS_BYTES:
                break
    return data


def _fetch(client: httpx.Client, url: str, digest: str, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    _save(client, f"{url}/{MANIFEST}", folder / MANIFEST)
    manifest = read_manifest(folder, digest)
    for name in manifest.files:
        # A name that could leave the folder is no file of a bundle.
        if FILE_NAME.fullmatch(name):
            _save(client, f"{url}/{name}", folder / name)
    check_files(folder, manifest)


def _save(client: httpx.Client, url: str, path: Path) -> None:
    """Write a file of a peer. Raises StoreDownError for one that is larger than any bundle."""
    size = 0
    with client.stream("GET", url) as answer, path.open("wb") as file:
        answer.raise_for_status()
        for part in answer.iter_bytes():
            size += file.write(part)
            if size > MAX_FILE_BYTES:
                raise StoreDownError(f"the peer's {path.name} is too large")
