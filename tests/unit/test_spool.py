"""Writer and reader of the spool on a real folder.

Appended records are read in order, whichever process dies in between.
"""

import errno
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from fraudops.errors import SpoolFullError, StoreDownError
from fraudops.spool import SpoolReader, SpoolWriter
from fraudops.spool.frames import encode_frame
from fraudops.spool.options import SpoolOptions
from fraudops.spool.segments import list_segments, spool_bytes
from tests.support.waiting import eventually

SMALL = SpoolOptions(max_bytes=1 << 20, segment_bytes=1 << 16)


def payloads(count: int, size: int = 100) -> list[bytes]:
    return [f"{number:08d}".encode().ljust(size, b".") for number in range(count)]


def drain(folder: Path, budget: int = 1 << 16) -> list[bytes]:
    """Read and commit everything that is there now."""
    reader = SpoolReader(folder)
    read: list[bytes] = []
    while group := reader.read(budget):
        for segment, piece in group:
            assert not piece.damaged
            read += piece.payloads
            segment.commit(piece)
    reader.close()
    return read


def segment_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.glob("*.seg*"))


@pytest.mark.parametrize("fsync", ["always", "interval", "never"])
def test_appended_records_are_read_in_order_under_every_fsync_policy(
    tmp_path: Path, fsync: str
) -> None:
    writer = SpoolWriter(tmp_path, "w", SpoolOptions(fsync=fsync))  # type: ignore[arg-type]
    sent = payloads(20)
    for payload in sent[:10]:
        writer.append(payload)
    writer.append_many(sent[10:])
    assert drain(tmp_path) == sent
    writer.close()


def test_the_order_of_a_writer_is_kept_over_many_segments(tmp_path: Path) -> None:
    sent = payloads(3_000)
    writer = SpoolWriter(tmp_path, "w", SMALL)
    for payload in sent:
        writer.append(payload)
    writer.close()
    assert len(list_segments(tmp_path)) >= 4
    assert drain(tmp_path) == sent


def test_records_from_before_a_writers_restart_are_read_too(tmp_path: Path) -> None:
    for payload in (b"before", b"after"):
        writer = SpoolWriter(tmp_path, "w", SMALL)
        writer.append(payload)
        writer.close()
    assert drain(tmp_path) == [b"before", b"after"]


def test_writers_share_the_folder_and_each_keeps_its_order(tmp_path: Path) -> None:
    writers = [SpoolWriter(tmp_path, name, SMALL) for name in ("a", "b", "a")]
    for number in range(300):
        for index, writer in enumerate(writers):
            writer.append(f"{index} {number}".encode())
    drained = drain(tmp_path, 4_096)
    for index in range(3):
        assert [payload for payload in drained if payload.startswith(b"%d " % index)] == [
            f"{index} {number}".encode() for number in range(300)
        ]
    for writer in writers:
        writer.close()


def test_a_finished_segment_is_removed_and_a_live_one_stays(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, "w", SMALL)
    writer.append(b"one")
    assert drain(tmp_path) == [b"one"]
    assert drain(tmp_path) == []
    assert len(list_segments(tmp_path)) == 1
    writer.append(b"two")
    writer.close()
    assert drain(tmp_path) == [b"two"]
    assert drain(tmp_path) == []
    assert segment_files(tmp_path) == []


def test_uncommitted_rows_are_read_again(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, "w", SMALL)
    writer.append_many(payloads(50))
    writer.close()
    first = SpoolReader(tmp_path)
    [(segment, piece)] = first.read(1_000)
    segment.commit(piece)
    [(_, lost)] = first.read(1_000)
    first.close()
    assert lost.payloads
    assert drain(tmp_path) == payloads(50)[len(piece.payloads) :]


def test_a_lost_or_incomplete_position_repeats_the_rows(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, "w", SMALL)
    writer.append_many(payloads(5))
    assert len(drain(tmp_path)) == 5
    for path in tmp_path.glob("*.position"):
        path.write_text("58")
    assert len(drain(tmp_path)) == 5
    writer.close()


def test_the_backlog_counts_bytes_that_are_not_committed(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, "w", SMALL)
    writer.append_many(payloads(10))
    reader = SpoolReader(tmp_path)
    assert reader.backlog().bytes == spool_bytes(tmp_path) == 10 * 116
    for segment, piece in reader.read(1 << 16):
        segment.commit(piece)
    assert reader.backlog().bytes == 0
    reader.close()
    writer.close()


def test_the_backlog_counts_rows_of_every_segment_that_are_not_committed(tmp_path: Path) -> None:
    writers = [SpoolWriter(tmp_path, name, SMALL) for name in "ab"]
    for _ in range(30):
        for writer in writers:
            writer.append_many(payloads(50))
    reader, committed = SpoolReader(tmp_path), 0
    assert len(list_segments(tmp_path)) > 2
    assert reader.backlog().rows == 3_000
    for writer in writers:
        writer.append_many(payloads(7))
        writer.close()
    assert reader.backlog().rows == 3_014
    while pieces := reader.read(20_000):
        for segment, piece in pieces:
            segment.commit(piece)
            committed += len(piece.payloads)
        assert reader.backlog().rows == 3_014 - committed
    assert committed == 3_014
    reader.close()


def test_the_row_count_is_that_of_the_last_complete_frame(
    tmp_path: Path,
) -> None:
    writer = SpoolWriter(tmp_path, "w", SpoolOptions())
    writer.append_many([*payloads(3), b"x" * 300_000])
    writer.close()
    [segment] = list_segments(tmp_path)
    with (tmp_path / segment.name).open("ab") as file:
        file.write(encode_frame(4, b"torn")[:-1])
    reader = SpoolReader(tmp_path)
    assert reader.backlog().rows == 4
    reader.close()


def test_a_folder_admits_one_shipper(tmp_path: Path) -> None:
    first = SpoolReader(tmp_path)
    with pytest.raises(StoreDownError, match="another shipper"):
        SpoolReader(tmp_path)
    first.close()
    SpoolReader(tmp_path).close()


def append_for_ever(writer: SpoolWriter) -> None:
    for _ in range(20_000):
        writer.append(b"x" * 1_000)


def test_a_full_spool_refuses_and_accepts_again_after_shipping(tmp_path: Path) -> None:
    writers = [SpoolWriter(tmp_path, name, SMALL) for name in ("a", "b")]
    for writer in writers:
        with pytest.raises(SpoolFullError, match="full"):
            append_for_ever(writer)
    assert spool_bytes(tmp_path) <= SMALL.max_bytes * 34 // 32

    def accepts_again() -> None:
        drain(tmp_path)
        for writer in writers:
            writer.append(b"again")
        # The writers already accept when the first segment is gone.
        assert spool_bytes(tmp_path) < SMALL.max_bytes // 2

    eventually(accepts_again)
    for writer in writers:
        writer.close()


def test_a_batch_that_does_not_fit_leaves_nothing(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, "w", SMALL)
    with pytest.raises(SpoolFullError):
        writer.append_many([b"x" * 1_000] * 2_000)
    assert spool_bytes(tmp_path) == 0
    writer.close()


def test_a_closed_writer_accepts_nothing(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, "w", SMALL)
    writer.close()
    with pytest.raises(ValueError, match="closed"):
        writer.append(b"late")


def test_segments_are_for_their_owner_only(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path / "spool", "w", SMALL)
    assert (tmp_path / "spool").stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in (tmp_path / "spool").iterdir())
    writer.close()


def test_a_folder_that_cannot_be_written_is_a_store_that_is_down(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreDownError, match="cannot be written"):
        SpoolWriter(tmp_path / "file" / "spool", "w", SMALL)


FILL_A_SMALL_DISK = """
import resource, sys
from pathlib import Path
from fraudops.errors import SpoolFullError
from fraudops.spool.options import SpoolOptions
from fraudops.spool import SpoolWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, -1))
writer = SpoolWriter(Path(sys.argv[1]), "w", SpoolOptions())
count = 0
for attempt in range(1_000):
    try:
        if sys.argv[2] == "one":
            writer.append(b"%06d" % count + b"." * 300)
            count += 1
        else:
            writer.append_many([b"%06d" % (count + number) + b"." * 300 for number in range(7)])
            count += 7
    except SpoolFullError:
        break
resource.setrlimit(resource.RLIMIT_FSIZE, (-1, -1))
writer.append(b"after")
writer.close()
print(count)
"""


@pytest.mark.parametrize("how", ["one", "many"])
def test_a_partial_write_on_a_full_disk_is_undone(tmp_path: Path, how: str) -> None:
    """The file-size limit acts as a full disk: the kernel writes a part, as with ENOSPC."""
    done = subprocess.run(
        [sys.executable, "-c", FILL_A_SMALL_DISK, str(tmp_path), how],
        capture_output=True,
        text=True,
        check=True,
    )
    drained = drain(tmp_path)
    assert drained[-1] == b"after"
    assert [payload[:6] for payload in drained[:-1]] == [
        b"%06d" % number for number in range(int(done.stdout))
    ]
    assert int(done.stdout) > 100


APPEND_FOR_EVER = """
import sys
from pathlib import Path
from fraudops.spool.options import SpoolOptions
from fraudops.spool import SpoolWriter
writer = SpoolWriter(Path(sys.argv[1]), "w", SpoolOptions(segment_bytes=1 << 16))
number = 0
while True:
    writer.append(b"%08d" % number)
    number += 1
    print(number, flush=True)
"""


def test_every_record_that_a_killed_writer_appended_is_there(tmp_path: Path) -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", APPEND_FOR_EVER, str(tmp_path)], stdout=subprocess.PIPE
    )
    assert child.stdout
    answered = 0
    while answered < 4_000:
        answered = int(child.stdout.readline())
    child.send_signal(signal.SIGKILL)
    answered = int((child.stdout.read().split() or [answered])[-1])
    child.wait()
    child.stdout.close()
    drained = drain(tmp_path)
    assert drained == [b"%08d" % number for number in range(len(drained))]
    assert answered <= len(drained) <= answered + 1
    assert segment_files(tmp_path) == [] or drain(tmp_path) == []


def test_fsync_always_reports_a_disk_that_does_not_sync(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = SpoolWriter(tmp_path, "w", SpoolOptions(fsync="always"))
    writer.append(b"one")

    def broken(_descriptor: int) -> None:
        raise OSError(errno.EIO, "the disk is ill")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", broken)
        with pytest.raises(StoreDownError, match="does not sync"):
            writer.append(b"two")
    assert writer.fsync_failures == 1
    writer.append(b"three")
    writer.close()
    assert drain(tmp_path)[-1] == b"three"


def test_the_reader_waits_for_an_unfinished_frame_of_a_live_writer(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, "w", SMALL)
    [segment] = list_segments(tmp_path)
    frame = encode_frame(0, b"unfinished")
    reader = SpoolReader(tmp_path)
    with (tmp_path / segment.name).open("ab", buffering=0) as file:
        for end in range(0, len(frame), 5):
            file.write(frame[end : end + 5][: len(frame) - 1 - end])
            assert reader.read(1 << 16) == []
        file.write(frame[-1:])
    [(_, piece)] = reader.read(1 << 16)
    assert piece.payloads == [b"unfinished"]
    reader.close()
    writer.close()


def test_damage_in_a_living_segment_does_not_hold_up_what_follows(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, "w", SMALL)
    writer.append_many(payloads(3))
    [segment] = list_segments(tmp_path)
    with (tmp_path / segment.name).open("r+b") as file:
        file.seek(116 + 50)
        file.write(b"\x00")
    reader = SpoolReader(tmp_path)
    pieces = []
    while group := reader.read(1 << 16):
        pieces += [piece for _, piece in group]
        group[0][0].commit(group[0][1])
    assert [piece.payloads for piece in pieces] == [payloads(3)[:1], [], payloads(3)[2:]]
    assert len(pieces[1].damaged) == 116
    assert pieces[2].missing == 1
    reader.close()
    writer.close()


def test_a_record_larger_than_the_budget_and_one_larger_than_allowed(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, "w", SpoolOptions())
    writer.append(b"y" * (1 << 20))
    with pytest.raises(ValueError, match="larger"):
        writer.append(b"y" * ((1 << 20) + 1))
    writer.append(b"small")
    writer.close()
    assert [len(payload) for payload in drain(tmp_path, 64)] == [1 << 20, 5]


def test_positions_of_segments_that_are_gone_are_forgotten(tmp_path: Path) -> None:
    (tmp_path / "w.0123456789abcdef0123456789abcdef.00000001.seg.position").write_text("10 1\n")
    SpoolReader(tmp_path).close()
    assert segment_files(tmp_path) == []


def test_a_long_backlog_needs_few_open_files(tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path, "w", SMALL)
    for payload in payloads(900, 1_000):
        writer.append(payload)
    writer.close()
    assert len(list_segments(tmp_path)) > 10
    reader = SpoolReader(tmp_path)
    reader.read(1 << 16)
    opened = [str(path.readlink()) for path in Path("/proc/self/fd").iterdir() if path.is_symlink()]
    assert sum(path.startswith(str(tmp_path)) and path.endswith(".seg") for path in opened) == 1
    reader.close()
    assert drain(tmp_path) == payloads(900, 1_000)


@pytest.mark.parametrize("name", ["", "a/b", "../x", "a b"])
def test_the_name_of_a_writer_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        SpoolWriter(tmp_path, name, SMALL)


def test_a_finished_segment_is_removed_immediately_whatever_the_interval(tmp_path: Path) -> None:
    """The next segment is shipped only after that, and with `commit` answers wait for it."""
    writer = SpoolWriter(tmp_path, "w", replace(SMALL, fsync_interval_ms=10_000))
    writer.append_many([bytes(1 << 16)])
    writer.append(b"next")
    reader = SpoolReader(tmp_path)

    def all_read() -> None:
        for segment, piece in reader.read(1 << 20):
            segment.commit(piece)
        assert len(list(tmp_path.glob("*.seg"))) == 1

    eventually(all_read)
    reader.close()
    writer.close()
