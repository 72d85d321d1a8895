"""The pod's bundle cache, as a worker uses it.

The bundle verifier fetches and verifies bundles. The cache removes old bundles here.
"""

import asyncio
import shutil
from collections.abc import Collection
from pathlib import Path

import msgspec

from fraudops.errors import RefusedError, StoreDownError
from fraudops.promotion.serving_record import ServingTarget
from services.inference.folders import VERIFIED
from services.inference.pod.bundle_verifier import BundleRequest, VerificationOutcome
from services.inference.pod.worker_channel import RunFolder


class BundleCache:
    """The cache in `folder`: one folder for each bundle, named by its digest.

    The caller holds the pod's lock.

    A bundle is verified once in a pod's life. The run folder has an empty file for each verified
    bundle. Each worker also checks that the bundle's files are still the same.
    """

    def __init__(self, folder: Path, run: RunFolder) -> None:
        self.folder, self._run = folder, run

    def is_verified(self, digest: str) -> bool:
        return self._marker(digest).exists() and (self.folder / digest).is_dir()

    async def ensure(self, target: ServingTarget, seconds: float, *, fetch: bool = True) -> str:
        """Verify the target's bundle again, and fetch it if the cache does not have it.

        Returns where the bundle came from. Raises RefusedError with the reason, StoreDownError.
        """
        version, digest = target.version, target.digest
        self._marker(digest).unlink(missing_ok=True)
        try:
            async with asyncio.timeout(seconds):
                answer = await self._run.request_verification(
                    msgspec.json.encode(BundleRequest(version, digest, fetch))
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
        self._marker(digest).touch()
        return source

    def prune(self, keep: Collection[str]) -> None:
        """Remove the bundles whose digests are not in `keep`.

        The next promotion tries a folder again that cannot be removed now.
        """
        for folder in self.folder.iterdir():
            if folder.name not in keep and not folder.name.startswith("."):
                self._marker(folder.name).unlink(missing_ok=True)
                shutil.rmtree(folder, ignore_errors=True)

    def _marker(self, digest: str) -> Path:
        return self._run.path / f"{VERIFIED}{digest}"


def _read_outcome(answer: bytes) -> str:
    """Return the source that the verifier names.

    Raises RefusedError or StoreDownError with the verifier's reason.
    """
    outcome = msgspec.json.decode(answer, type=VerificationOutcome)
    if outcome.source:
        return outcome.source
    reason = outcome.error or "no reason was given"
    raise (
        StoreDownError(reason)
        if outcome.exit_code == StoreDownError.exit_code
        else RefusedError(reason)
    )
