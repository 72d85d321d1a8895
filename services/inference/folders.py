"""The folders that the service writes to; they are prepared before it starts."""

import os
import shutil
import time
from pathlib import Path

from fraudops.errors import StoreDownError
from fraudops.files import try_lock
from fraudops.spool.segments import INCOMING
from fraudops.state import State

LOCK_SECONDS = 3.0
# The prefix is that of release 0.2.0, which removes such files at its start, and no others.
VERIFIED = "proved-"


def make_folders(state: State) -> int:
    """Create the folders, remove an earlier run's temporary files, and lock the state folder.

    Returns the descriptor that holds the lock. Raises StoreDownError if another service uses the
    state folder or the disk cannot be written.
    """
    try:
        for folder in (state.root, state.run, state.bundles, state.spool):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = _lock(state.run / "service.lock")
        shutil.rmtree(state.metrics, ignore_errors=True)
        state.metrics.mkdir(mode=0o700, parents=True)
    except OSError as error:
        raise StoreDownError(
            f"{error.filename} cannot be written ({error.strerror}): "
            "check the disk, or set FRAUDOPS_STATE to another folder"
        ) from error
    for left in (
        *state.run.glob("worker-*.sock"),
        *state.run.glob(f"{VERIFIED}*"),
        *state.spool.glob(f"{INCOMING}*"),
    ):
        left.unlink(missing_ok=True)
    return descriptor


def _lock(path: Path) -> int:
    """Lock the file, and wait for the workers of a killed service, which hold it until they end."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    end = time.monotonic() + LOCK_SECONDS
    while not try_lock(descriptor):
        if time.monotonic() > end:
            raise StoreDownError(
                f"another inference service works on {path.parent.parent}: stop it, "
                "or set FRAUDOPS_STATE to another folder"
            )
        time.sleep(0.05)
    return descriptor
