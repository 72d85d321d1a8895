"""Bundles on this machine: from the local cache, or else from the registry."""

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

from fraudops.errors import BundleError
from fraudops.registry.versions import Registry

logger = logging.getLogger(__name__)
Verified = TypeVar("Verified")


@contextmanager
def verified_bundle(
    version: str,
    digest: str,
    cache: Path,
    open_registry: Callable[[], Registry],
    verify: Callable[[Path, str], Verified],
) -> Iterator[tuple[Path, Verified]]:
    """Yield the folder of a version's bundle, and what `verify` returns for it.

    A bad copy in the cache is logged, and the bundle is downloaded again. The cache itself is never
    changed: it belongs to the pod, whose workers may have the files open. A downloaded folder is
    deleted when the block ends.

    `verify(folder, digest)` raises BundleError for a bad bundle. `open_registry` is called only
    when a download is necessary, so a good cached bundle needs no MLflow.

    Raises BundleError when the registry's copy is bad too, UnknownVersionError when the registry
    does not have the version, and StoreDownError when MLflow is unavailable.
    """
    cached = cache / digest
    if cached.is_dir():
        try:
            verified = verify(cached, digest)
        except BundleError as error:
            logger.warning(
                "the cached bundle %s is bad and is downloaded again: %s", digest[:12], error
            )
        else:
            # Not inside the `try`: a BundleError of the caller's block is no reason to download.
            yield cached, verified
            return
    with TemporaryDirectory(prefix="fraudops-bundle-") as name:
        folder, registry = Path(name), open_registry()
        registry.download_bundle(registry.version(version), folder, digest)
        yield folder, verify(folder, digest)
