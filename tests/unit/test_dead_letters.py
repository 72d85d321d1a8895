"""Files of dead letters: written whole, finished at a size, and on disk under their names."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from fraudops.audit import dead_letters
from fraudops.audit.dead_letters import DeadLetters, RejectedRecord, is_final_file


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """Let the kernel refuse to write to a file beyond this size, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def put(letters: DeadLetters, *payloads: bytes) -> None:
    letters.put(RejectedRecord(payload, "a reason") for payload in payloads)


def test_a_failed_put_adds_nothing(tmp_path: Path) -> None:
    """The shipper repeats it, and must not fill the disk with copies of the first lines."""
    letters = DeadLetters(tmp_path)
    put(letters, b"x" * 1_000_000)
    (path,) = letters.folder.glob("*.jsonl")
    before = path.read_bytes()
    with files_of_at_most(len(before) + 5000), pytest.raises(OSError, match="too large"):
        put(letters, *[b"y" * 1000] * 100)
    assert path.read_bytes() == before
    put(letters, b"z")
    assert [entry.data[:1] for entry in letters.entries()] == [b"x", b"z"]


def test_a_file_gets_no_more_lines_once_it_is_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dead_letters, "FILE_BYTES", 1000)
    letters = DeadLetters(tmp_path)
    for number in range(3):
        put(letters, bytes([number]) * 1000)
    names = [path.name for path in letters.folder.glob("*.jsonl")]
    assert len(names) == 3
    assert all(map(is_final_file, names))
    assert sorted(entry.data[0] for entry in letters.entries()) == [0, 1, 2]


def test_the_name_of_a_new_file_is_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: list[Path] = []
    monkeypatch.setattr(dead_letters, "sync_folder", synced.append)
    letters = DeadLetters(tmp_path)
    put(letters, b"first")
    assert synced == [letters.folder, tmp_path]
    put(letters, b"second")
    assert len(synced) == 2
