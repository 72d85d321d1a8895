"""The pod's bundle cache, as a worker uses it.

The bundle verifier fetches and verifies bundles. The cache removes old bundles here.
"""

import asyncio
import shutil
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import msgspec

from fraudops.errors import BundleError, RefusedError, SignatureRefusedError, StoreDownError
from fraudops.promotion.serving_record import ServingTarget
from fraudops.signing.credentials import Credentials
from fraudops.signing.kept import fingerprint
from services.inference.folders import VERIFIED
from services.inference.pod.bundle_verifier import BundleRequest, VerificationOutcome
from services.inference.pod.worker_channel import RunFolder

REFUSALS: Mapping[str, type[RefusedError]] = {
    "signature": SignatureRefusedError,
    "bundle": BundleError,
}


class BundleCache:
    """The cache in `folder`: one folder for each bundle, named by its digest.

    The caller holds the pod's lock.

    A bundle is verified once in a pod's life, unless the public keys change or it serves as another
    version. The run folder has a file for each verified bundle, which names the version and the
    keys. Each worker also checks that the bundle's files are still the same.
    """

    def __init__(self, folder: Path, run: RunFolder, public_keys: Path) -> None:
        self.folder, self._run, self._public_keys = folder, run, public_keys

    def is_verified(self, target: ServingTarget) -> bool:
        try:
            # What a key has signed that is no longer valid must be verified again, and refused.
            # So must a bundle that is now another version, because a verdict is about one.
            verified = self._marker(target.digest).read_text()
            known = verified == _verified_as(target.version, fingerprint(self._public_keys))
        except OSError:
            return False
        return known and (self.folder / target.digest).is_dir()

    async def ensure(
        self,
        target: ServingTarget,
        seconds: float,
        *,
        credentials: Sequence[Credentials] | None = (),
        fetch: bool = True,
    ) -> str:
        """Verify the target's bundle again, and fetch it if the cache does not have it.

        `credentials` are those of the serving record, and None if it could not be read.
        Returns where the bundle came from. Raises SignatureRefusedError, BundleError or
        RefusedError with the reason, and StoreDownError.
        """
        version, digest = target.version, target.digest
        self._marker(digest).unlink(missing_ok=True)
        # Before the verification: keys that change during it are not those of the marker.
        keys = self._keys()
        try:
            async with asyncio.timeout(seconds):
                answer = await self._run.request_verification(
                    msgspec.json.encode(
                        BundleRequest(
                            version,
                            digest,
                            fetch,
                            None if credentials is None else tuple(credentials),
                        )
                    )
                )
        except TimeoutError as error:
            raise StoreDownError(
                f"version {version} was not fetched and verified within {round(seconds, 1):g} s"
            ) from error
        except (OSError, asyncio.IncompleteReadError) as error:
            raise StoreDownError(
                f"the process that verifies version {version} ended without an answer; "
                "the log may say why, or memory is short"
            ) from error
        source = _read_outcome(answer)
        self._marker(digest).write_text(_verified_as(version, keys))
        return source

    def _keys(self) -> str:
        try:
            return fingerprint(self._public_keys)
        except OSError:
            return "unreadable"

    def prune(self, keep: Collection[str]) -> None:
        """Remove the bundles and credentials whose digests are not in `keep`.

        The next promotion tries a folder again that cannot be removed now.
        """
        for path in self.folder.iterdir():
            digest = path.name.partition(".")[0]
            if not digest or digest in keep:
                continue
            self._marker(digest).unlink(missing_ok=True)
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)

    def _marker(self, digest: str) -> Path:
        return self._run.path / f"{VERIFIED}{digest}"


def _verified_as(version: str, keys: str) -> str:
    """Return the content of a marker: what was verified, and with which keys."""
    return f"{version} {keys}"


def _read_outcome(answer: bytes) -> str:
    """Return the source that the verifier names.

    Raises RefusedError or StoreDownError with the verifier's reason.
    """
    outcome = msgspec.json.decode(answer, type=VerificationOutcome)
    if outcome.source:
        return outcome.source
    reason = outcome.error or "no reason was given"
    if outcome.exit_code == StoreDownError.exit_code:
        raise StoreDownError(reason)
    raise REFUSALS.get(outcome.refused, RefusedError)(reason)
