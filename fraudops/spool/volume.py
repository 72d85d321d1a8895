"""A volume that the pods of a release share, with one folder for each pod.

The folder of a dead pod is taken over by the others. Every process of a pod holds a shared lock on
the pod's folder. The kernel frees the lock when the last process ends, also after SIGKILL.

Where flock is node-local (some NFS mounts), every pod on another node would look dead. So the
shipper also touches its folder every second. A folder counts as dead only if its lock is free and
it was either released cleanly or not touched for SILENT_SECONDS on the observer's clock.
"""

import contextlib
import logging
import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from fraudops.errors import StoreDownError
from fraudops.files import sync_file, sync_folder, try_lock
from fraudops.spool.position import POSITION
from fraudops.spool.reader import LOCK
from fraudops.spool.segments import (
    ASIDE,
    INCOMING,
    NEWER,
    adopt,
    list_segments,
)

logger = logging.getLogger(__name__)
ALIVE = "alive.lock"
SILENT_SECONDS = 30.0
SETTLE_SECONDS = 5.0
# Files of a dead pod that hold no records: locks, positions of deleted segments, and incomplete
# files that were being handed over to it.
DISPOSABLE = (
    LOCK,
    f"*{POSITION}",
    "*.tmp",
    f"{INCOMING}*",
    *(f"{folder}/{name}.lock" for folder in (ASIDE, NEWER) for name in ("put", "replay")),
)


class PodDirectory:
    """The folder of a live pod, locked until the process ends."""

    def __init__(self, folder: Path, descriptor: int) -> None:
        self.folder, self._descriptor = folder, descriptor

    def heartbeat(self) -> None:
        """Touch the folder, which shows other pods that this pod lives.

        Raises StoreDownError when another pod has taken the folder.
        """
        # A full disk may refuse this. That must not stop the shipper, which makes room.
        with contextlib.suppress(OSError):
            os.utime(self._descriptor)
        if not _is_at(self._descriptor, self.folder / ALIVE):
            raise StoreDownError(
                f"another pod has taken {self.folder} although this pod lives: check that the "
                "file system of the spool's volume supports flock across nodes"
            )

    def release(self) -> None:
        """Sync everything in the folder, and mark the folder as free for other pods immediately.

        Raises OSError.
        """
        for path in self.folder.rglob("*"):
            if path.is_file():
                with contextlib.suppress(FileNotFoundError):
                    sync_file(path)
        for folder in (self.folder / ASIDE, self.folder / NEWER, self.folder):
            if folder.is_dir():
                sync_folder(folder)
        # Only the last process of the pod may mark the folder. Where flock is node-local, other
        # pods would otherwise take it from processes that still write.
        if try_lock(self._descriptor):
            # The time zero is the mark: see `_is_silent`.
            os.utime(self._descriptor, (0, 0))


def claim(volume: Path, pod: str, link: Path) -> PodDirectory:
    """Lock the pod's folder on the volume, and make `link` a symbolic link to it.

    Each process of the pod calls it. Raises StoreDownError.
    """
    try:
        volume.mkdir(mode=0o700, parents=True, exist_ok=True)
        home = _hold(volume / pod)
        for folder in (volume, volume.parent):
            sync_folder(folder)
        link.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            link.symlink_to(home.folder)
        if not link.samefile(home.folder):
            raise StoreDownError(
                f"{link} exists and is not a link to {home.folder}: move it away, or unset "
                "FRAUDOPS_SPOOL_VOLUME"
            )
    except OSError as error:
        raise StoreDownError(
            f"the spool's volume {volume} cannot be used ({error.strerror}): is it mounted, and "
            "may this user write there?"
        ) from error
    return home


def _hold(folder: Path) -> PodDirectory:
    """Lock the pod's folder, and create it if needed.

    Raises OSError, and StoreDownError when another pod keeps holding it.
    """
    # Another pod may lock the folder for a moment to examine it, and may even remove it. So try
    # several times.
    end = time.monotonic() + SETTLE_SECONDS
    while time.monotonic() < end:
        folder.mkdir(mode=0o700, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):
            descriptor = os.open(folder / ALIVE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            if try_lock(descriptor, shared=True) and _is_at(descriptor, folder / ALIVE):
                os.utime(descriptor)
                return PodDirectory(folder, descriptor)
            os.close(descriptor)
        time.sleep(0.02)
    raise StoreDownError(
        f"another pod holds {folder} and has not released it within {SETTLE_SECONDS:g} s"
    )


@dataclass(frozen=True)
class OrphanedDirectory:
    """A folder without a live process, now locked by this process.

    `settled` is true once the folder counts as dead, so that its files may be taken.
    """

    folder: Path
    settled: bool

    def bytes(self) -> int:
        """Return the bytes of its segments and of its dead letters."""
        return sum(
            path.stat().st_size
            for pattern in ("*.seg", f"{ASIDE}/*.jsonl", f"{NEWER}/*.jsonl")
            for path in self.folder.glob(pattern)
        )

    def move_segments(self, into: Path) -> Iterator[int]:
        """Move the segments and their positions to the folder `into`, the oldest first.

        Yields the bytes of each segment after its move. Raises OSError.
        """
        for segment in list_segments(self.folder):
            path, position = self.folder / segment.name, segment.name + POSITION
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                if adopt(descriptor):
                    # The position moves first. After a crash in between, a position without its
                    # segment is harmless; a segment without its position is read twice.
                    with contextlib.suppress(FileNotFoundError):
                        (self.folder / position).rename(into / position)
                    path.rename(into / segment.name)
                    yield os.fstat(descriptor).st_size
            finally:
                os.close(descriptor)

    def remove_if_empty(self) -> bool:
        """Delete everything but records; return whether the folder will be removed.

        A file that this release does not know keeps the folder. Raises OSError.
        """
        for pattern in DISPOSABLE:
            for path in self.folder.glob(pattern):
                path.unlink(missing_ok=True)
        for name in (ASIDE, NEWER):
            with contextlib.suppress(OSError):
                (self.folder / name).rmdir()
        if any(path.name != ALIVE for path in self.folder.iterdir()):
            return False
        (self.folder / ALIVE).unlink()
        return True


class Volume:
    """The other pods' folders on the volume."""

    def __init__(self, home: PodDirectory) -> None:
        self._home = home
        self._seen: dict[str, tuple[int, float]] = {}

    def orphans(self) -> Iterator[OrphanedDirectory]:
        """Yield the folders whose lock is free; each is locked until the next one is requested.

        Raises OSError.
        """
        folders = sorted(
            path
            for path in self._home.folder.parent.iterdir()
            if path.is_dir() and path != self._home.folder
        )
        self._seen = {
            path.name: self._seen[path.name] for path in folders if path.name in self._seen
        }
        for folder in folders:
            descriptor = _free(folder)
            if descriptor is None:
                continue
            try:
                yield OrphanedDirectory(
                    folder, self._is_silent(folder.name, os.fstat(descriptor).st_mtime_ns)
                )
            finally:
                os.close(descriptor)
                # Removes an empty folder only. On NFS that works only after the lock file is
                # closed, because NFS keeps an open deleted file under another name.
                with contextlib.suppress(OSError):
                    folder.rmdir()

    def _is_silent(self, name: str, touched: int) -> bool:
        """Return whether the pod of a folder released it or has not touched it for too long."""
        # Clocks of nodes differ, so compare the folder's time with its earlier value only, and
        # measure the silence with our own clock.
        now = time.monotonic()
        before, since = self._seen.get(name, (None, now))
        if before != touched:
            since = now
        self._seen[name] = (touched, since)
        return touched == 0 or now - since >= SILENT_SECONDS


def _free(folder: Path) -> int | None:
    """Lock a folder; return the descriptor, or None when another process holds or removed it.

    A folder that cannot be opened is logged and skipped, so that the others are still examined.
    """
    descriptor = None
    try:
        descriptor = os.open(folder / ALIVE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if try_lock(descriptor) and _is_at(descriptor, folder / ALIVE):
            return descriptor
    except FileNotFoundError:
        pass
    except OSError as error:
        logger.error(
            "the folder of another pod cannot be opened",
            extra={"folder": folder.name, "reason": error.strerror},
        )
    if descriptor is not None:
        os.close(descriptor)
    return None


def _is_at(descriptor: int, path: Path) -> bool:
    """Return whether the open file is still the one at `path`, not a deleted or replaced one."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
