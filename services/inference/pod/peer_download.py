"""Downloads a bundle from another pod of the release, so that a new pod needs no registry.

The bundle verifier tries it before MLflow.
"""

import contextlib
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import httpx
import msgspec

from fraudops.errors import FraudopsError, StoreDownError
from fraudops.extensible import decode_document
from fraudops.model.bundle_download import download_files
from fraudops.model.verification import verify_bundle
from fraudops.signing.credentials import Credentials
from fraudops.signing.kept import SUFFIX, KeptCredentials, without_mark

TIMEOUT = httpx.Timeout(10.0, connect=1.0)
# The file has about 6 kB. A defective peer must not fill the memory.
MAX_CREDENTIALS_BYTES = 1 << 20


def download(urls: Sequence[str], token: str, digest: str, folder: Path) -> None:
    """Fetch the bundle into `folder` from the first pod that has it.

    Each pod's copy is verified, so that a pod with an altered file does not hide the next one.
    Raises StoreDownError when no pod has the bundle.
    """
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(headers=headers, timeout=TIMEOUT, trust_env=False) as client:
        for url in urls:
            try:
                open_file = partial(_open_file, client, f"{url}/bundles/{digest}")
                download_files(open_file, folder, digest)
                verify_bundle(folder, digest)
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


@contextlib.contextmanager
def _open_file(client: httpx.Client, url: str, name: str) -> Iterator[Iterator[bytes]]:
    with client.stream("GET", f"{url}/{name}") as answer:
        answer.raise_for_status()
        yield answer.iter_bytes()
