"""Memory in front of the spool.

Records arrive in order, are refused rather than dropped, and are counted when their process is
killed.
"""

import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from fraudops.errors import SpoolFullError, StoreDownError
from fraudops.spool import SpoolReader, SpoolWriter
from fraudops.spool.in_memory_count import InFlightCounter, collect_lost
from fraudops.spool.inspection import unshipped_payloads
from fraudops.spool.memory import BATCH_BYTES, MemoryWriter
from fraudops.spool.options import SpoolOptions
from fraudops.spool.segments import spool_bytes
from tests.support.waiting import eventually

SMALL = SpoolOptions(max_bytes=1 << 20, segment_bytes=1 << 16)
RECORD = 1000


def records(count: int, start: int = 0) -> list[bytes]:
    return [f"{number:08d}".encode().ljust(RECORD, b".") for number in range(start, start + count)]


def writer(folder: Path, maximum: int = 1 << 20, options: SpoolOptions = SMALL) -> MemoryWriter:
    return MemoryWriter(partial(SpoolWriter, folder / "spool", "w", options), maximum, folder)


def spooled(folder: Path) -> list[bytes]:
    return list(unshipped_payloads(folder / "spool"))


def reaches(folder: Path, expected: list[bytes]) -> Callable[[], None]:
    def check() -> None:
        assert spooled(folder) == expected

    return check


def fill(folder: Path, memory: MemoryWriter) -> list[bytes]:
    """Fill spool and memory until both refuse, and return the accepted records."""
    accepted = 0

    def both_full() -> None:
        nonlocal accepted
        with contextlib.suppress(SpoolFullError):
            while True:
                memory.append_many(records(10, accepted))
                accepted += 10
        assert spool_bytes(folder / "spool") > (1 << 20) - BATCH_BYTES

    eventually(both_full)
    with pytest.raises(SpoolFullError, match="memory is full"):
        memory.append_many(records(10, accepted))
    return records(accepted)


@pytest.mark.parametrize("fsync", ["always", "interval", "never"])
def test_accepted_records_reach_the_spool_in_order(tmp_path: Path, fsync: str) -> None:
    memory = writer(tmp_path, options=SpoolOptions(fsync=fsync))  # type: ignore[arg-type]
    sent = records(500)
    for number in range(0, 500, 5):
        memory.append_many(sent[number : number + 5])
    eventually(reaches(tmp_path, sent))
    memory.close()
    assert spooled(tmp_path) == sent


def test_closing_the_writer_loses_nothing(tmp_path: Path) -> None:
    memory = writer(tmp_path)
    memory.append_many(records(300))
    memory.close()
    assert spooled(tmp_path) == records(300)
    assert list(tmp_path.glob("*.held")) == []


def test_a_closed_writer_refuses_records(tmp_path: Path) -> None:
    memory = writer(tmp_path)
    memory.close()
    with pytest.raises(StoreDownError, match="stops"):
        memory.append_many([b"late"])
    assert spooled(tmp_path) == []


def test_memory_keeps_its_records_while_the_spool_is_full_and_refuses_more(
    tmp_path: Path,
) -> None:
    memory = writer(tmp_path)
    taken = fill(tmp_path, memory)
    on_disk = spooled(tmp_path)
    assert len(on_disk) < len(taken)
    reader, shipped = SpoolReader(tmp_path / "spool"), list[bytes]()

    def ship() -> None:
        for segment, piece in reader.read(1 << 20):
            shipped.extend(piece.payloads)
            segment.commit(piece)
        assert len(shipped) >= len(taken)

    eventually(ship, pause=0.01)
    assert shipped == taken
    memory.append_many([b"again"])
    memory.close()
    eventually(ship)
    reader.close()


def test_closing_the_writer_with_a_full_spool_loses_nothing_either(tmp_path: Path) -> None:
    memory = writer(tmp_path)
    taken = fill(tmp_path, memory)
    memory.close()
    assert spooled(tmp_path) == taken
    assert collect_lost(tmp_path) == 0


def test_a_batch_is_accepted_completely_or_not_at_all(tmp_path: Path) -> None:
    memory = writer(tmp_path, 100 * RECORD)
    with pytest.raises(SpoolFullError):
        memory.append_many(records(101))
    with pytest.raises(ValueError, match="larger"):
        memory.append_many([bytes((1 << 20) + 1)])
    memory.append_many(records(100))
    memory.close()
    assert spooled(tmp_path) == records(100)


KILLED = """
import resource, signal, sys
from functools import partial
from pathlib import Path
from fraudops.spool.options import SpoolOptions
from fraudops.spool import SpoolWriter
from fraudops.spool.memory import MemoryWriter
folder = Path(sys.argv[1])
memory = MemoryWriter(partial(SpoolWriter, folder / "spool", "w", SpoolOptions()), 1 << 20, folder)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))  # a disk that takes nothing
for number in range(7):
    memory.append_many([b"record", b"another"])
print("held", flush=True)
if sys.argv[2] == "closed":
    memory.close()
sys.stdin.read()
"""


@pytest.mark.parametrize("end", ["killed", "closed"])
def test_records_that_a_process_lost_are_counted_once_by_the_next_one(
    tmp_path: Path, end: str
) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path), end],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == b"held\n"
        if end == "killed":
            assert collect_lost(tmp_path) == 0, "it lives"
            process.send_signal(signal.SIGKILL)
        else:
            process.communicate(b"")
    assert spooled(tmp_path) == []
    assert collect_lost(tmp_path) == 14
    assert collect_lost(tmp_path) == 0
    assert list(tmp_path.glob("*.held")) == []


def test_a_counter_that_its_process_could_not_finish_counts_nothing(tmp_path: Path) -> None:
    (tmp_path / "half.held").write_bytes(b"\x01")
    living = InFlightCounter(tmp_path)
    living.add(3)
    assert collect_lost(tmp_path) == 0
    living.add(-3)
    living.close()
    assert list(tmp_path.iterdir()) == []
