"""Fetches a bundle into the pod's cache and verifies it.

The signed statements are verified first. Nothing of a bundle is opened before that.
A folder appears in the cache by a rename: complete and verified, or not at all.

This runs in the bundle verifier's processes. Functions import what only a download needs.
"""

import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from fraudops.errors import (
    BundleError,
    FraudopsError,
    RefusedError,
    SignatureRefusedError,
    StoreDownError,
)
from fraudops.model.verification import verify_bundle
from fraudops.settings import InferenceSettings
from fraudops.signing.credentials import AcceptedStatements, Credentials
from fraudops.signing.kept import first_accepted, keep, read_kept, trusted_keys, without_mark
from fraudops.signing.keys import PublicKeys
from fraudops.state import State

logger = logging.getLogger(__name__)
INCOMING, REFUSED = ".incoming-", ".refused-"


def fetch_bundle(
    settings: InferenceSettings,
    bundles: Path,
    version: str,
    digest: str,
    *,
    credentials: Sequence[Credentials] | None = (),
    fetch: bool = True,
) -> str:
    """Verify the bundle in the cache, or fetch and verify it from a peer or the registry.

    `credentials` are those of the serving record, and None if it could not be read.
    Returns the source: `cache`, `peer` or `registry`. A bundle whose content is refused leaves the
    cache. One without valid credentials is not opened and stays.

    Raises SignatureRefusedError, BundleError, RefusedError, StoreDownError.
    """
    with _disk_errors(bundles):
        bundles.mkdir(parents=True, exist_ok=True)
        _sweep(bundles)
        proof, accepted = _check_credentials(settings, bundles, version, digest, credentials, fetch)
        # Before the bundle appears in the cache. Otherwise a crash may leave it without them.
        keep(bundles, version, digest, proof, accepted)
        refusal = _check_cached(bundles, digest)
        if refusal is None:
            return "cache"
        if not fetch:
            raise BundleError(refusal)
        try:
            return _download(settings, bundles, version, digest)
        except FraudopsError as error:
            kinds = (StoreDownError, BundleError)
            kind = next((kind for kind in kinds if isinstance(error, kind)), RefusedError)
            raise kind(f"{refusal}; {error}") from error


def _check_credentials(
    settings: InferenceSettings,
    bundles: Path,
    version: str,
    digest: str,
    recorded: Sequence[Credentials] | None,
    fetch: bool,
) -> tuple[Credentials, AcceptedStatements]:
    """Return the credentials that let the bundle serve: the record's, the kept or a peer's ones.

    Raises SignatureRefusedError.
    """
    # Read for each verification, so that a new key is valid without a restart.
    keys = trusted_keys(settings.signing.public_keys_of(State.at(settings.state)))
    offered = list(recorded or ())
    if kept := read_kept(bundles, digest):
        # The record has the mark of an unsigned version. A record that can be read may have lost
        # the mark, and then the kept one is void.
        offered.append(kept if recorded is None else without_mark(kept))
    try:
        return first_accepted(offered, version, digest, keys)
    except SignatureRefusedError as error:
        found = _accepted_from_peers(settings, version, digest, keys) if fetch else None
        if found is None:
            raise error
        return found


def _accepted_from_peers(
    settings: InferenceSettings, version: str, digest: str, keys: PublicKeys
) -> tuple[Credentials, AcceptedStatements] | None:
    from services.inference.pod import peer_download

    if not (peers := _peers(settings)):
        return None
    offered = peer_download.credentials(*peers, digest)
    try:
        return first_accepted(offered, version, digest, keys)
    except SignatureRefusedError:
        return None


def _peers(settings: InferenceSettings) -> tuple[Sequence[str], str] | None:
    """Return the URLs of the other pods and the token for them, or None without such pods."""
    from fraudops.cluster.peers import peer_urls

    urls, token = peer_urls(settings.cluster, settings.admin_port), settings.admin_token
    return (urls, token.get_secret_value()) if urls and token else None


def _check_cached(bundles: Path, digest: str) -> str | None:
    """Return None if the cache holds the unaltered bundle, else why not.

    An altered bundle is removed.
    """
    folder = bundles / digest
    if not folder.is_dir():
        return f"the bundle {digest[:12]} is not in the cache"
    try:
        verify_bundle(folder, digest)
    except BundleError as error:
        _discard(bundles, folder)
        return f"the cached bundle {digest[:12]} was refused: {error}"
    return None


def _download(settings: InferenceSettings, bundles: Path, version: str, digest: str) -> str:
    """Fetch the bundle from another pod, and from the registry if no pod has it unaltered."""
    incoming = bundles / f"{INCOMING}{digest}-{os.getpid()}"
    try:
        if _from_peers(settings, digest, incoming):
            source = "peer"
        else:
            _from_registry(settings, version, digest, incoming)
            source = "registry"
        incoming.rename(bundles / digest)
    finally:
        shutil.rmtree(incoming, ignore_errors=True)
    return source


def _from_peers(settings: InferenceSettings, digest: str, incoming: Path) -> bool:
    from services.inference.pod import peer_download

    if not (peers := _peers(settings)):
        return False
    try:
        peer_download.download(*peers, digest, incoming)
    except FraudopsError as error:
        logger.info("no other pod gave the bundle", extra={"digest": digest, "reason": str(error)})
        # What it gave may stay: the registry's files replace those of the same names, and the
        # verification refuses others.
        return False
    return True


def _from_registry(settings: InferenceSettings, version: str, digest: str, incoming: Path) -> None:
    if not settings.mlflow_tracking_uri:
        raise StoreDownError("it cannot be fetched, because MLFLOW_TRACKING_URI is not set")
    from fraudops.registry import Registry

    registry = Registry(settings.mlflow_tracking_uri, settings.model_name)
    registry.download_bundle(registry.version(version), incoming, digest)
    verify_bundle(incoming, digest)


def _discard(bundles: Path, folder: Path) -> None:
    """Remove a bundle; the rename takes it out of the cache before the slow removal."""
    discarded = bundles / f"{REFUSED}{folder.name}-{os.getpid()}"
    folder.rename(discarded)
    shutil.rmtree(discarded, ignore_errors=True)


def _sweep(bundles: Path) -> None:
    """Remove incomplete folders and temporary files of processes that were killed.

    The caller holds the pod's lock, so no other process uses the folder.
    """
    for entry in bundles.iterdir():
        if entry.name.startswith((INCOMING, REFUSED)):
            shutil.rmtree(entry, ignore_errors=True)
        elif entry.name.startswith(".") and entry.suffix == ".tmp":
            entry.unlink()


@contextmanager
def _disk_errors(bundles: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # No refusal: the disk may have space again before the promoter's deadline.
        raise StoreDownError(
            f"the bundle cannot be written to the cache ({bundles}: {error.strerror}): check the "
            "free space of the disk and the permissions of the folder"
        ) from error
