"""The pod's bundle cache, seen from a worker: bundles are brought and proved by `services.inference.prepare`, and old ones removed."""

import asyncio
import contextlib
import os
import shutil
import sys
from collections.abc import Collection
from pathlib import Path

import msgspec

from fraudops.errors import FraudopsError, RefusedError, StoreDownError
from services.inference.prepare import Outcome

PROVED = "proved-"
NICE = 10


class BundleCache:
    """`folder` holds one folder a bundle, named by its digest; whoever calls holds the pod's lock.

    A bundle is proved once in a pod's life; `run` has an empty file for each that was. That its files are still the same, each worker checks itself.
    """

    def __init__(self, folder: Path, run: Path) -> None:
        self.folder, self._run = folder, run

    def is_proved(self, digest: str) -> bool:
        return proof_path(self._run, digest).exists() and (self.folder / digest).is_dir()

    async def ensure(self, version: str, digest: str, seconds: float) -> str:
        """Where the bundle came from, once it is here and proved anew. Raises RefusedError with the reason, StoreDownError."""
        proof_path(self._run, digest).unlink(missing_ok=True)
        source = read_outcome(await self._prove(version, digest, seconds))
        proof_path(self._run, digest).touch()
        return source

    async def _prove(self, version: str, digest: str, seconds: float) -> bytes:
        process = await asyncio.create_subprocess_exec(*command(self.folder, version, digest), stdout=asyncio.subprocess.PIPE)
        # Proving takes as long as it takes; the workers beside it answer.
        with contextlib.suppress(ProcessLookupError):
            os.setpriority(os.PRIO_PROCESS, process.pid, NICE)
        try:
            async with asyncio.timeout(seconds):
                output, _ = await process.communicate()
        except TimeoutError as error:
            raise StoreDownError(f"version {version} was not brought and proved within {seconds:g} s") from error
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        return output

    def prune(self, keep: Collection[str]) -> None:
        """Removes the bundles that are none of `keep`. A folder that does not go now is tried again after the next promotion."""
        for folder in self.folder.iterdir():
            if folder.name not in keep and not folder.name.startswith("."):
                proof_path(self._run, folder.name).unlink(missing_ok=True)
                shutil.rmtree(folder, ignore_errors=True)


def proof_path(run: Path, digest: str) -> Path:
    return run / f"{PROVED}{digest}"


def command(folder: Path, version: str, digest: str, *flags: str) -> list[str]:
    return [sys.executable, "-m", "services.inference.prepare", str(folder), version, digest, *flags]


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
