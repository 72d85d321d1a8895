"""The files of a promotion on one machine: what they hold, and how writers wait for each other."""

import asyncio
import errno
import fcntl
import os
import stat
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from fraudops.errors import StoreDownError
from fraudops.promotion.local import FileLock, FileRecordStore, LocalRecords, SystemClock
from fraudops.promotion.ports import LockBusyError, StaleRecordError, UnknownWriteError
from fraudops.promotion.serving_record import EMPTY, RecordUnreadableError, encode
from tests.support.promotion_ports import reserved


def take(path: Path) -> int:
    """Take the lock of a file as another process does; closing the descriptor frees it."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return descriptor


def test_the_record_is_its_canonical_json_and_so_is_its_token(tmp_path: Path) -> None:
    store = FileRecordStore(tmp_path / "serving.json")
    assert store.read() == (EMPTY, b"")
    token = store.compare_and_set(reserved(1), b"")
    assert (tmp_path / "serving.json").read_bytes() == token == encode(reserved(1))
    with pytest.raises(StaleRecordError):
        store.compare_and_set(reserved(2), b"")
    assert store.read() == (reserved(1), token)


def test_a_written_record_survives_a_crash_of_the_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced = list[int]()
    sync = os.fsync
    monkeypatch.setattr(
        os, "fsync", lambda descriptor: (synced.append(descriptor), sync(descriptor))
    )
    FileRecordStore(tmp_path / "serving.json").compare_and_set(reserved(1), b"")
    assert synced


def test_a_full_disk_writes_nothing_and_the_message_names_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FileRecordStore(tmp_path / "serving.json")
    token = store.compare_and_set(reserved(1), b"")

    def full(_path: Path, _data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_bytes", full)
        with pytest.raises(StoreDownError) as down:
            store.compare_and_set(reserved(2), token)
    assert str(down.value) == (
        f"the serving record cannot be written ({tmp_path}/serving.json: No space left on device): "
        "check the free space of the disk and the permissions of the folder, then try again"
    )
    assert down.value.exit_code == 75
    assert store.read() == (reserved(1), token)
    # The retry finishes.
    store.compare_and_set(reserved(2), token)


@pytest.mark.parametrize("kind", [stat.S_ISREG, stat.S_ISDIR], ids=["file", "folder"])
def test_only_a_record_that_was_renamed_may_have_been_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: Callable[[int], bool]
) -> None:
    store = FileRecordStore(tmp_path / "serving.json")
    token = store.compare_and_set(reserved(1), b"")

    def fsync(descriptor: int) -> None:
        if kind(os.fstat(descriptor).st_mode):
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", fsync)
    renamed = kind is stat.S_ISDIR
    error = UnknownWriteError if renamed else StoreDownError
    with pytest.raises(error, match=r"/serving\.json: Input/output error\): check the "):
        store.compare_and_set(reserved(2), token)
    assert store.read()[0] == reserved(2 if renamed else 1)


def test_a_write_is_unknown_while_the_file_cannot_be_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = FileRecordStore(tmp_path / "serving.json")
    token = store.compare_and_set(reserved(1), b"")

    def broken(_descriptor: int) -> None:
        monkeypatch.setattr(Path, "read_bytes", broken)
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(UnknownWriteError):
        store.compare_and_set(reserved(2), token)


def test_an_unreadable_record_and_its_lock_name_their_files(tmp_path: Path) -> None:
    (tmp_path / "serving.json").mkdir()
    with pytest.raises(StoreDownError, match=r"cannot be read \(.*serving\.json: Is a directory\)"):
        FileRecordStore(tmp_path / "serving.json").read()
    (tmp_path / "serving.lock").mkdir()
    with pytest.raises(StoreDownError, match=r"opened \(.*/serving\.lock: Is a directory\)"):
        FileRecordStore(tmp_path / "serving.json").compare_and_set(reserved(1), b"")


def test_an_empty_file_is_no_record(tmp_path: Path) -> None:
    (tmp_path / "serving.json").touch()
    with pytest.raises(RecordUnreadableError):
        FileRecordStore(tmp_path / "serving.json").read()


async def test_a_lock_that_cannot_be_written_is_not_held(tmp_path: Path) -> None:
    # Every write to this device fails as on a full disk.
    (tmp_path / "promotion.lock").symlink_to("/dev/full")
    blocked = FileLock(tmp_path / "promotion.lock" / "folder" / "promotion.lock")
    for lock in (FileLock(tmp_path / "promotion.lock"), blocked):
        with pytest.raises(StoreDownError, match=r"the lock cannot be taken \(.*promotion\.lock: "):
            async with lock.hold("one"):
                pytest.fail("the lock cannot name its holder")
        assert not await lock.held()


async def test_an_error_inside_of_the_lock_is_no_error_of_the_lock(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        async with FileLock(tmp_path / "promotion.lock").hold("one"):
            (tmp_path / "missing").read_bytes()


async def test_a_writer_waits_for_another_one(tmp_path: Path) -> None:
    records = LocalRecords(FileRecordStore(tmp_path / "serving.json"))
    descriptor = take(tmp_path / "serving.lock")
    writing = asyncio.create_task(
        asyncio.to_thread(records.store.compare_and_set, reserved(1), b"")
    )
    await asyncio.wait({writing}, timeout=0.3)
    assert not writing.done()
    assert (await records.read())[0] == EMPTY
    os.close(descriptor)
    await writing
    assert (await records.read())[0] == reserved(1)


async def test_a_lock_names_only_its_last_holder_and_its_process(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "promotion.lock"
    for holder in ("a promotion with a long name", "two"):
        async with FileLock(path).hold(holder):
            assert path.read_text() == f"{holder}, process {os.getpid()}\n"


@pytest.mark.parametrize(
    ("written", "holder"), [(b"one, process 7\n", "one, process 7"), (b"", "unknown")]
)
async def test_a_lock_that_stays_busy_names_its_holder(
    tmp_path: Path, written: bytes, holder: str
) -> None:
    path = tmp_path / "promotion.lock"
    descriptor = take(path)
    os.write(descriptor, written)
    async with asyncio.timeout(10):
        with pytest.raises(LockBusyError) as busy:
            async with FileLock(path, wait_seconds=0.2).hold("two"):
                pytest.fail("both have the lock")
    assert busy.value.holder == holder
    os.close(descriptor)


async def test_a_holder_waits_as_long_as_it_was_told(tmp_path: Path) -> None:
    path = tmp_path / "promotion.lock"
    descriptor = take(path)
    lock = FileLock(path, wait_seconds=30)

    async def hold() -> bool:
        async with lock.hold("two"):
            return await lock.held()

    waiting = asyncio.create_task(hold())
    await asyncio.wait({waiting}, timeout=0.4)
    assert not waiting.done()
    os.close(descriptor)
    assert await waiting
    assert not await lock.held()


async def test_a_lock_is_not_held_after_an_error(tmp_path: Path) -> None:
    lock = FileLock(tmp_path / "promotion.lock")
    with pytest.raises(ZeroDivisionError):
        async with lock.hold("one"):
            _ = 1 / 0
    assert not await lock.held()


async def test_the_clock_goes_on_while_it_sleeps_and_shows_the_time_of_day() -> None:
    clock = SystemClock()
    before = clock.now()
    await clock.sleep(0.05)
    assert clock.now() > before
    shown = datetime.fromisoformat(clock.timestamp())
    assert shown.utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - shown) < timedelta(minutes=5)
    # Rows sort by this text, so every time has the same number of digits.
    assert len(clock.timestamp()) == len("2026-11-29T10:00:00.000+00:00")


async def test_others_run_while_a_program_sleeps() -> None:
    order: list[str] = []

    async def sleep() -> None:
        await SystemClock().sleep(0.02)
        order.append("awake")

    sleeping = asyncio.create_task(sleep())
    await asyncio.sleep(0)
    order.append("others")
    await sleeping
    assert order == ["others", "awake"]
