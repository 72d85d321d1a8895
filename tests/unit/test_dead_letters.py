"""Files of dead letters: written whole, finished at a size, and on disk under their names."""

import resource
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fraudops.audit import dead_letters
from fraudops.audit.dead_letter_files import is_final_file, sent_name
from fraudops.audit.dead_letters import DeadLetters, RejectedRecord
from fraudops.audit.shipper_status import ShipperStatus
from fraudops.errors import SpoolFullError
from fraudops.spool import SpoolWriter, volume
from fraudops.spool.options import SpoolOptions
from fraudops.spool.volume import claim
from services.inference.audit.takeover import HandoverReceiver
from services.shipper.orphan_adoption import OrphanAdoption


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


def test_letters_above_the_limit_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    letters = DeadLetters(tmp_path)
    one = [RejectedRecord(bytes(1_000), "why")]
    letters.put(one * 2, 5_000)
    (path,) = letters.folder.glob("*.jsonl")
    before = path.read_bytes()
    with pytest.raises(SpoolFullError, match=r"dead letters are full \(2,\d+ of 5,000 bytes\)"):
        letters.put(one * 2, 5_000)
    assert path.read_bytes() == before
    letters.put([], 1)
    letters.put(one, 5_000)
    letters.put(one)


def test_an_empty_folder_takes_a_group_above_the_limit(tmp_path: Path) -> None:
    """Else a damaged stretch that is larger than the limit would stop shipping for ever."""
    letters = DeadLetters(tmp_path)
    letters.put([RejectedRecord(bytes(10_000), "why")], 5_000)
    assert len(list(letters.entries())) == 1
    with pytest.raises(SpoolFullError):
        letters.put([RejectedRecord(b"", "why")], 5_000)


async def parts(data: bytes) -> AsyncIterator[bytes]:
    yield data


def size_of(letters: DeadLetters) -> int:
    return sum(path.stat().st_size for path in letters.folder.glob("*.jsonl"))


async def test_letters_of_other_pods_do_not_count_towards_the_limit(tmp_path: Path) -> None:
    """Neither those that are handed over nor those that are adopted, and also after another pod."""
    first, second, third = (DeadLetters(tmp_path / name) for name in ("first", "second", "third"))
    put(first, bytes(10_000))
    with first.for_handover() as [path]:
        name, data = path.name, path.read_bytes()
    (tmp_path / "second").mkdir()
    receiver = HandoverReceiver(tmp_path / "second", 1 << 20, lambda: None)
    for _ in range(2):
        await receiver.take_dead_letters("aside", sent_name(name), len(data), parts(data))
    assert size_of(second) == len(data)
    second.put([RejectedRecord(b"own", "why")] * 3, 1_000)
    with pytest.raises(SpoolFullError):
        second.put([RejectedRecord(bytes(1_000), "why")], 1_000)
    with second.for_handover() as paths:
        assert name in {sent_name(each.name) for each in paths}
        third.take_over(paths)
    third.put([RejectedRecord(b"own", "why")], 1_000)
    assert third.replay().kept == 5


def test_adopted_letters_leave_room_for_the_pods_own_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(volume, "SILENT_SECONDS", 0)
    maximum, letters = 1 << 20, [RejectedRecord(bytes(900), "why") for _ in range(90)]
    for number in range(9):
        DeadLetters(tmp_path / f"vol/dead-{number}").put(letters, maximum // 8)
    home = claim(tmp_path / "vol", "alive", tmp_path / "state")
    current = ShipperStatus(pid=1, at=datetime.now(UTC), phase="waiting")
    adoption, own = OrphanAdoption(home, maximum, current), DeadLetters(home.folder)
    for _ in range(3):
        adoption.look()
    assert 0 < size_of(own) <= maximum // 8
    assert current.abandoned_bytes == 8 * size_of(own)
    writer = SpoolWriter(home.folder, "w", SpoolOptions(max_bytes=maximum))
    writer.append(bytes(700))
    writer.close()
    own.put(letters[:1], maximum // 8)
    for left in reversed(range(8)):
        for path in own.folder.glob("*.jsonl"):
            path.unlink()
        adoption.look()
        assert len(list((tmp_path / "vol").glob("dead-*/aside/*.jsonl"))) == left
