"""The pod's bundle cache, seen from a worker: bundles are brought and proved by `services.inference.prepare`, and old ones removed."""

import asyncio
import shutil
import sys
from collections.abc import Collection
from pathlib import Path

import msgspec

from fraudops.errors import FraudopsError, RefusedError, StoreDownError
from services.inference.prepare import Outcome


class BundleCache:
    """`folder` holds one folder a bundle, named by its digest; whoever calls holds the pod's lock."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    async def ensure(self, version: str, digest: str, seconds: float) -> str:
        """Where the bundle came from, once it is here and proved. Raises RefusedError with the reason, StoreDownError."""
        process = await asyncio.create_subprocess_exec(*command(version, digest), stdout=asyncio.subprocess.PIPE)
        try:
            async with asyncio.timeout(seconds):
                output, _ = await process.communicate()
        except TimeoutError as error:
            raise StoreDownError(f"version {version} was not brought and proved within {seconds:g} s") from error
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return read_outcome(output)

    def prune(self, keep: Collection[str]) -> None:
        """Removes the bundles that are none of `keep`. A folder that does not go now is tried again after the next promotion."""
        for folder in self.folder.iterdir():
            if folder.name not in keep and not folder.name.startswith("."):
                shutil.rmtree(folder, ignore_errors=True)


def command(version: str, digest: str, *flags: str) -> list[str]:
    return [sys.executable, "-m", "services.inference.prepare", version, digest, *flags]


def read_outcome(output: bytes) -> str:
    """What `prepare` wrote. Raises RefusedError or StoreDownError with its reason."""
    try:
        outcome = msgspec.json.decode(output, type=Outcome)
    except msgspec.MsgspecError as error:
        raise FraudopsError("the process that proves bundles ended without an answer; the log says why") from error
    if outcome.source:
        return outcome.source
    reason = outcome.error or "no reason was given"
    raise StoreDownError(reason) if outcome.exit_code == StoreDownError.exit_code else RefusedError(reason)
