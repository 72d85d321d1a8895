"""A volume that the pods of a release share: a folder of its own for each pod, and what dead pods
have left for the others to take.

Every process of a pod holds a shared lock on the pod's folder, so that the kernel says when the
last of them is gone, however it went. A file system that keeps locks within one node only would
say so of every pod of another node: so the shipper touches its folder each second, and a folder
counts as dead only when its lock is free and it was left in order, or has not been touched for
SILENT_SECONDS by the looker's own clock.
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
# What a dead pod leaves that is worth nothing: locks, positions of segments that are gone, half of
# what was to be handed to it.
WORTHLESS = (
    LOCK,
    f"*{POSITION}",
    "*.tmp",
    f"{INCOMING}*",
    *(f"{folder}/{name}.lock" for folder in (ASIDE, NEWER) for name in ("put", "replay")),
)


class PodDirectory:
    """The folder of a pod that lives, held until the process ends."""

    def __init__(self, folder: Path, descriptor: int) -> None:
        self.folder, self._descriptor = folder, descriptor

    def heartbeat(self) -> None:
        """Says that the pod lives; a full disk that does not take it stops nobody.

        Raises StoreDownError when the folder is no longer this pod's.
        """
        with contextlib.suppress(OSError):
            os.utime(self._descriptor)
        if not _is_at(self._descriptor, self.folder / ALIVE):
            raise StoreDownError(
                f"{self.folder} was taken from this living pod: does the file system of the spool's volume keep flock across its nodes?"
            )

    def release(self) -> None:
        """Everything in the folder is on the disk when it returns, and nobody need wait to see it
        silent. Raises OSError.
        """
        for path in self.folder.rglob("*"):
            if path.is_file():
                with contextlib.suppress(FileNotFoundError):
                    sync_file(path)
        for folder in (self.folder / ASIDE, self.folder / NEWER, self.folder):
            if folder.is_dir():
                sync_folder(folder)
        # Who else lives in it would be robbed where locks are not seen across nodes.
        if try_lock(self._descriptor):
            os.utime(self._descriptor, (0, 0))


def claim(volume: Path, pod: str, link: Path) -> PodDirectory:
    """The pod's folder on the volume, which `link` leads to from now on; each process of the pod
    calls it. Raises StoreDownError.
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
                f"{link} is there already and leads elsewhere: move it away, or unset FRAUDOPS_SPOOL_VOLUME"
            )
    except OSError as error:
        raise StoreDownError(
            f"the spool's volume {volume} cannot be used ({error.strerror}): is it mounted, and may this user write there?"
        ) from error
    return home


def _hold(folder: Path) -> PodDirectory:
    """Another pod may look into the folder at the same moment, which takes it no time, or even
    remove it.
    """
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
    raise StoreDownError(f"another pod holds {folder}, and does not let go of it")


@dataclass(frozen=True)
class OrphanedDirectory:
    """A folder whose lock is free, and held by us;

    `settled` once nobody can come back to it unseen.
    """

    folder: Path
    settled: bool

    def bytes(self) -> int:
        """Of its segments and of what was set aside in it."""
        return sum(
            path.stat().st_size
            for pattern in ("*.seg", f"{ASIDE}/*.jsonl", f"{NEWER}/*.jsonl")
            for path in self.folder.glob(pattern)
        )

    def segments(self, into: Path) -> Iterator[int]:
        """Brings one segment after the other, the oldest first, into that folder, where they are
        read from the same positions; yields the bytes of each.

        The position goes first: one whose segment did not follow is of no use to anybody.
        """
        for segment in list_segments(self.folder):
            path, position = self.folder / segment.name, segment.name + POSITION
            descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
            try:
                if adopt(descriptor):
                    with contextlib.suppress(FileNotFoundError):
                        (self.folder / position).rename(into / position)
                    path.rename(into / segment.name)
                    yield os.fstat(descriptor).st_size
            finally:
                os.close(descriptor)

    def remove_if_empty(self) -> bool:
        """True if the folder goes when it is let go of; what else somebody has put there keeps it."""
        for pattern in WORTHLESS:
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
    """The volume as one pod sees it."""

    def __init__(self, home: PodDirectory) -> None:
        self._home = home
        self._seen: dict[str, tuple[int, float]] = {}

    def orphans(self) -> Iterator[OrphanedDirectory]:
        """The folders of pods that are dead; nobody else has one until the next is asked for.

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
                # Only an empty one goes, and on NFS only once nobody has its lock file open.
                with contextlib.suppress(OSError):
                    folder.rmdir()

    def _is_silent(self, name: str, touched: int) -> bool:
        now = time.monotonic()
        before, since = self._seen.get(name, (None, now))
        if before != touched:
            since = now
        self._seen[name] = (touched, since)
        return touched == 0 or now - since >= SILENT_SECONDS


def _free(folder: Path) -> int | None:
    """The descriptor that holds the folder, None when another has it or it is gone.

    One that cannot be opened keeps nobody from the others.
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
            "a dead pod's folder cannot be opened",
            extra={"folder": folder.name, "reason": error.strerror},
        )
    if descriptor is not None:
        os.close(descriptor)
    return None


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
