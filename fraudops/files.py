"""Files that several processes share: written whole, locked, kept through a crash of the node.

A file that others read appears whole or not at all. It is written under another name and then
renamed. `durable` says whether it must also survive the node: that costs two fsyncs.
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

from fraudops.canonical import canonical_json

Content = TypeVar("Content", bound=msgspec.Struct)


def write_atomically(
    path: Path, data: bytes, *, durable: bool = False, private: bool = False
) -> None:
    """Write a file whole or not at all.

    `durable`: it is on disk when the call returns. `private`: only its owner may read it.

    Raises OSError, and leaves the file as it was.
    """
    with atomic_file(path, durable=durable) as temporary:
        if private:
            # Before the first byte: the content is never readable for others.
            temporary.touch(mode=0o600)
        temporary.write_bytes(data)


@contextlib.contextmanager
def atomic_file(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Give a temporary name to write to, and rename it to `path` when the block ends well.

    Raises OSError.
    """
    temporary = temporary_path(path)
    try:
        yield temporary
        publish(temporary, path, durable=durable)
    finally:
        temporary.unlink(missing_ok=True)


def publish(temporary: Path, path: Path, *, durable: bool = False) -> None:
    """Rename a finished file to its own name. Raises OSError."""
    if durable:
        # Before the rename: ext4 may otherwise keep the name and lose the content.
        sync_file(temporary)
    temporary.replace(path)
    if durable:
        sync_folder(path.parent)


def temporary_path(path: Path) -> Path:
    """A name beside `path` that no other process uses, on any node that shares the folder."""
    return path.with_name(f".{path.name}.{socket.gethostname()}-{os.getpid()}.tmp")


def write_json(path: Path, content: msgspec.Struct) -> None:
    """Write canonical JSON whole or not at all. It need not survive the node. Raises OSError."""
    write_atomically(path, canonical_json(content))


def read_json(path: Path, kind: type[Content]) -> Content | None:
    """Read a file of `write_json`; None when it is missing or has another form."""
    with contextlib.suppress(FileNotFoundError, msgspec.MsgspecError):
        return msgspec.json.decode(path.read_bytes(), type=kind)
    return None


def sync_file(path: Path) -> None:
    """Make a file's content survive the node. Raises OSError."""
    _sync(path, os.O_RDONLY)


def sync_folder(folder: Path) -> None:
    """Make the names of new files survive the node. Raises OSError."""
    _sync(folder, os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def try_lock(descriptor: int, *, shared: bool = False) -> bool:
    """Take the flock of an open file, or return False when another process has it.

    The kernel frees it when the last copy of the descriptor is closed, so at the latest when
    its holder dies. Raises OSError.
    """
    how = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
    try:
        fcntl.flock(descriptor, how | fcntl.LOCK_NB)
    except OSError as error:
        # NFS emulates flock by fcntl locks, which say EACCES.
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return False
        raise
    return True


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file, which is made when it is missing. Waits for it. Raises OSError."""
    with _lock_file(path) as descriptor:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def try_locked(path: Path) -> Iterator[bool]:
    """Hold the lock of a file if it is free; yields whether it is held. Raises OSError."""
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
