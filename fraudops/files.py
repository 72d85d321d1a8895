"""Files that several processes share: atomic writes, locks, and fsync.

A file is written under a temporary name and then renamed, so that no reader sees a part of it.
A durable file also survives the loss of the node, which costs two fsyncs.
"""

import contextlib
import errno
import fcntl
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

import msgspec

from fraudops.canonical import canonical_json, decode_json

Content = TypeVar("Content", bound=msgspec.Struct)


def write_atomically(
    path: Path, data: bytes, *, durable: bool = False, private: bool = False
) -> None:
    """Write a whole file or, after an error, nothing.

    A `durable` file is on disk when the call returns. Only its owner may read a `private` file.
    Raises OSError and leaves an earlier file unchanged.
    """
    with atomic_file(path, durable=durable) as temporary:
        if private:
            # Other users may be able to read a file that a crash has left. A new file gets its
            # mode before the first byte, so that no other user can read the content at any time.
            temporary.unlink(missing_ok=True)
            temporary.touch(mode=0o600, exist_ok=False)
        temporary.write_bytes(data)


@contextlib.contextmanager
def atomic_file(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path to write to, and rename it to `path` after the block.

    If the block raises, the temporary file is removed. Raises OSError.
    """
    temporary = temporary_path(path)
    try:
        yield temporary
        publish(temporary, path, durable=durable)
    finally:
        temporary.unlink(missing_ok=True)


def publish(temporary: Path, path: Path, *, durable: bool = False) -> None:
    """Rename a finished file to its final name. Raises OSError."""
    if durable:
        # Before the rename: otherwise a crash may keep the new name and lose the content.
        sync_file(temporary)
    temporary.replace(path)
    if durable:
        # The new name is content of the folder.
        sync_folder(path.parent)


def temporary_path(path: Path) -> Path:
    """Return a path in the folder of `path` that no other process of any node uses."""
    return path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.tmp")


def write_json(path: Path, content: msgspec.Struct) -> None:
    """Write a file of canonical JSON atomically, but not durably. Raises OSError."""
    write_atomically(path, canonical_json(content))


def read_json(path: Path, kind: type[Content]) -> Content | None:
    """Read a file of `write_json`, or return None when it is missing or cannot be decoded."""
    # Another release may have written a form that this one cannot decode.
    with contextlib.suppress(FileNotFoundError, msgspec.MsgspecError):
        return decode_json(path.read_bytes(), kind)
    return None


def sync_file(path: Path) -> None:
    """Fsync the content of a file. Raises OSError."""
    _sync(path, os.O_RDONLY)


def sync_folder(folder: Path) -> None:
    """Fsync a folder, so that the names of its new files survive the node. Raises OSError."""
    _sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Take the flock of an open file, or return False when another process has it.

    The kernel releases the lock when the last copy of the descriptor is closed, at the latest when
    the processes that hold it have ended. Raises OSError.
    """
    how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except OSError as error:
        # NFS emulates flock with fcntl locks, which may fail with EACCES.
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Wait for the lock of a file, then hold it during the block.

    Creates the file if it is missing. Raises OSError.
    """
    with _lock_file(path) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def try_locked(path: Path) -> Iterator[bool]:
    """Hold the lock of a file during the block if it is free, and yield True; else yield False.

    Creates the file if it is missing. Raises OSError.
    """
    with _lock_file(path) as descriptor:
        yield try_lock(descriptor)


@contextlib.contextmanager
def _lock_file(path: Path) -> Iterator[int]:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        yield descriptor
    finally:
        os.close(descriptor)
