"""The download of a bundle from a source that is not trusted: the registry, or another pod.

The number and the size of the files are limited. No file name leads out of the folder.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path

from fraudops.errors import BundleError
from fraudops.model.manifest import (
    FILE_NAME,
    MANIFEST,
    MAX_BUNDLE_BYTES,
    MAX_FILES,
    MAX_MANIFEST_BYTES,
    read_manifest,
)

# Opens a file of the source by its name, and yields its chunks.
OpenFile = Callable[[str], AbstractContextManager[Iterator[bytes]]]


def download_files(open_file: OpenFile, folder: Path, digest: str) -> None:
    """Write `bundle.json` into `folder`, and then only the files that it names.

    `digest` is the sha256 of `bundle.json`. The caller compares the other files with the manifest.
    Raises BundleError if `bundle.json` is not that file, or names too many files or one that no
    bundle has, or if a file is too large. Raises what `open_file` raises.
    """
    folder.mkdir(parents=True, exist_ok=True)
    # The digest is signed, so a user who can only write to the source adds no name.
    _save(open_file, MANIFEST, folder, MAX_MANIFEST_BYTES)
    names = read_manifest(folder, digest).files
    if len(names) > MAX_FILES:
        raise BundleError(f"the bundle has {len(names)} files; at most {MAX_FILES} are allowed")
    remaining = MAX_BUNDLE_BYTES
    for name in names:
        if name == MANIFEST or not FILE_NAME.fullmatch(name):
            raise BundleError(
                f"{MANIFEST} names a file that no bundle has: it was not made by `fraudops train`"
            )
        remaining -= _save(open_file, name, folder, remaining)


def _save(open_file: OpenFile, name: str, folder: Path, limit: int) -> int:
    """Write a file and return its size. Raises BundleError for more than `limit` bytes."""
    size = 0
    with open_file(name) as chunks, (folder / name).open("wb") as file:
        for chunk in chunks:
            # Before the write: the pod's disk also holds the spool, and a full one evicts the pod.
            if (size := size + len(chunk)) > limit:
                raise BundleError(
                    f"{name} is larger than the {limit} bytes that are still allowed: "
                    "fraudops did not write it"
                )
            file.write(chunk)
    return size
