"""Signed statements of a bundle that a job on this machine or in a Job is about to open."""

from collections.abc import Callable, Sequence
from pathlib import Path

from fraudops.errors import SignatureRefusedError
from fraudops.registry.verdicts import read_signed
from fraudops.registry.versions import Registry
from fraudops.signing.credentials import Credentials, accept
from fraudops.signing.kept import first_accepted, read_kept, without_mark
from fraudops.signing.keys import PublicKeys


def require_credentials(
    version: str,
    digest: str,
    recorded: Sequence[Credentials],
    cache: Path,
    keys: PublicKeys,
    open_registry: Callable[[], Registry],
) -> None:
    """Verify that the bundle may be opened as `version`, before a job opens it.

    `recorded` are the credentials of the serving record. Those that a pod has kept in `cache` count
    too. The registry is read only if both have none, so that a job can work without MLflow.
    Raises SignatureRefusedError, and without credentials here UnknownVersionError, BundleError and
    StoreDownError.
    """
    kept = read_kept(cache, digest)
    offered = [credentials for credentials in recorded if credentials != Credentials()]
    if kept:
        offered.append(without_mark(kept))
    try:
        first_accepted(offered, version, digest, keys)
    except SignatureRefusedError:
        if offered:
            raise
        registry = open_registry()
        signed = read_signed(registry, registry.version(version))
        accept(Credentials(signed_verdict=signed), version, digest, keys)
