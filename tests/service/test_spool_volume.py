"""A spool volume that outlives pods: each pod ships its own folder and those of dead pods.

No two pods ever own the same folder.
"""

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from fraudops.audit.dead_letters import DeadLetters, RejectedRecord
from fraudops.audit.records import Record, encode
from fraudops.audit.shipper_status import ShipperStatus
from fraudops.spool import SpoolWriter
from fraudops.spool.options import SpoolOptions
from fraudops.spool.segments import list_segments
from fraudops.spool.volume import ALIVE, PodDirectory, claim
from fraudops.state import State
from services.inference.http.metrics_page import PodCollector
from tests.support.audit_records import fill, prediction
from tests.support.processes import free_port
from tests.support.serving import Service
from tests.support.shippers import RunningShipper, expect, ids
from tests.support.waiting import eventually
from tests.support.warm_start import start_python

# The shipper with shorter times: it adopts folders, and counts them as silent, within a test.
PROGRAM = """
import sys
import fraudops.spool.volume as volume
import services.shipper.__main__ as shipper
import services.shipper.orphan_adoption as orphan_adoption
for module, name, value in (
    (volume, "SILENT_SECONDS", float(sys.argv[1])),
    (orphan_adoption, "LOOK_SECONDS", 0.2),
):
    assert hasattr(module, name), name
    setattr(module, name, value)
shipper.main()
"""
NOWHERE = "postgresql://u:p@127.0.0.1:{}/d"
Pods = Callable[..., RunningShipper]


class ShipperPod:
    """A pod's state folder and its folder on the volume; this process acts as its workers."""

    def __init__(self, tmp_path: Path, name: str) -> None:
        self.name, self.volume = name, tmp_path / "volume"
        self.state, self.folder = State.at(tmp_path / name), self.volume / name

    def has_answered(self, count: int, **settings: int) -> list[str]:
        """Write this many predictions as a worker that then ends; return their ids."""
        writer = SpoolWriter(self.folder, f"{self.name}-1", SpoolOptions(**settings))
        records = [prediction(features={"text": "x" * 1000}) for _ in range(count)]
        for record in records:
            writer.append(encode(record))
        writer.close()
        return [record.id for record in records]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Pods]:
    """Return a function that starts the shipper of a pod; all of them end with the test."""
    started: list[RunningShipper] = []

    def begin(pod: ShipperPod, url: str, silent: float = 0.5, **more: str) -> RunningShipper:
        log = tmp_path / f"{pod.name}.log"
        own = {
            "FRAUDOPS_STATE": str(pod.state.root),
            "FRAUDOPS_POD": pod.name,
            "FRAUDOPS_SPOOL_VOLUME": str(pod.volume),
        }
        around = {
            "PATH": os.environ["PATH"],
            "HOME": str(tmp_path),
            "DATABASE_URL": url,
            "FRAUDOPS_CLUSTER__RELEASE": "test",
        }
        with log.open("ab") as output:
            process = start_python(["-c", PROGRAM, str(silent)], around | own | more, output)
        running = RunningShipper(pod.state, process, log)
        started.append(running)
        eventually(lambda: running.status)
        return running

    yield begin
    for running in started:
        if running.process.poll() is None:
            running.end(signal.SIGKILL)


def claim_folder(pod: ShipperPod) -> PodDirectory:
    """Claim the pod's folder as its service does at the start; the lock is held until the end."""
    return claim(pod.volume, pod.name, pod.state.spool)


def expect_status(running: RunningShipper, check: Callable[[ShipperStatus], bool]) -> None:
    def checked() -> None:
        assert check(running.status), running.status

    eventually(checked)


def expect_gone(pod: ShipperPod) -> None:
    def checked() -> None:
        assert not pod.folder.exists(), list(pod.folder.iterdir())

    eventually(checked)


def test_a_pod_ships_its_own_folder_on_the_volume(
    start: Pods, tmp_path: Path, database: str
) -> None:
    pod = ShipperPod(tmp_path, "pod-a")
    running = start(pod, database)
    sent = pod.has_answered(20)
    expect(database, sent)
    assert pod.state.spool.samefile(pod.folder)
    assert running.end() == 0
    assert list_segments(pod.folder) == []


def test_without_postgresql_a_pod_leaves_immediately_and_the_next_one_ships_its_folder(
    start: Pods, tmp_path: Path, database: str
) -> None:
    """Nothing is handed over: the search for a receiver would use up the grace period."""
    old, new = ShipperPod(tmp_path, "pod-a"), ShipperPod(tmp_path, "pod-b")
    running = start(old, NOWHERE.format(free_port()))
    sent = old.has_answered(50)
    expect_status(running, lambda status: status.phase == "waiting" and status.backlog_rows == 50)
    assert running.end() == 0
    assert (old.folder / ALIVE).stat().st_mtime_ns == 0
    next_one = start(new, database, silent=600)
    expect(database, sent)
    expect_gone(old)
    expect_status(
        next_one, lambda status: status.abandoned_bytes == 0 and status.adopted_bytes > 50_000
    )


def test_all_pods_killed_together_lose_nothing(start: Pods, tmp_path: Path, database: str) -> None:
    pods = [ShipperPod(tmp_path, f"pod-{number}") for number in range(3)]
    shippers = [start(pod, NOWHERE.format(free_port())) for pod in pods]
    sent = [
        identifier
        for pod in pods
        for identifier in pod.has_answered(200, segment_bytes=1 << 16, max_bytes=1 << 26)
    ]
    for shipper in shippers:
        shipper.process.kill()
    for shipper in shippers:
        shipper.process.wait()
    # Two pods start together and race for the folders of the three dead ones.
    others = [ShipperPod(tmp_path, "pod-x"), ShipperPod(tmp_path, "pod-y")]
    running = [start(pod, database) for pod in others]
    expect(database, sent, 40)
    for pod in pods:
        expect_gone(pod)

    def both_together() -> None:
        assert sum(shipper.status.shipped for shipper in running) == len(sent)
        assert sum(shipper.status.replayed for shipper in running) == 0
        assert [shipper.status.abandoned_bytes for shipper in running] == [0, 0]

    eventually(both_together)


def test_the_folder_of_a_living_pod_is_adopted_by_no_other_pod(
    start: Pods, tmp_path: Path, database: str
) -> None:
    """Its shipper is dead and its service holds the lock, so silence alone does not free it."""
    living, other = ShipperPod(tmp_path, "pod-a"), ShipperPod(tmp_path, "pod-b")
    home = claim_folder(living)
    sent = living.has_answered(20)
    os.utime(living.folder / ALIVE, (0, 0))
    running = start(other, database, silent=0)
    mine = other.has_answered(5)
    expect(database, mine)
    expect_status(running, lambda status: status.abandoned_bytes == 0)
    assert len(list_segments(living.folder)) == 1
    own = start(living, database)
    expect(database, [*sent, *mine])
    assert own.end() == 0
    assert home.folder.is_dir()


def test_a_folder_whose_lock_seems_free_is_left_alone_until_it_is_silent(
    start: Pods, tmp_path: Path, database: str
) -> None:
    """Where flock is local to a node, a living pod is known only by its touched folder."""
    living, other = ShipperPod(tmp_path, "pod-a"), ShipperPod(tmp_path, "pod-b")
    sent = living.has_answered(20)
    (living.folder / ALIVE).touch()
    running = start(other, database, silent=600)
    expect_status(running, lambda status: status.abandoned_bytes > 0)
    assert len(list_segments(living.folder)) == 1
    assert running.end() == 0
    start(other, database, silent=0.5)
    expect(database, sent)
    expect_gone(living)


def test_records_in_dead_folders_are_counted_while_postgresql_is_away(
    start: Pods, tmp_path: Path
) -> None:
    dead, pod = ShipperPod(tmp_path, "pod-a"), ShipperPod(tmp_path, "pod-b")
    dead.has_answered(30)
    (size,) = (path.stat().st_size for path in dead.folder.glob("*.seg"))
    running = start(pod, NOWHERE.format(free_port()), silent=0)
    expect_status(
        running, lambda status: status.phase == "waiting" and status.abandoned_bytes == size
    )
    metrics = {
        sample.name: sample.value
        for family in PodCollector(lambda: 1, pod.state.spool).collect()
        for sample in family.samples
    }
    assert metrics["fraudops_spool_abandoned_bytes"] == size
    assert metrics["fraudops_spool_bytes"] == metrics["fraudops_spool_adopted_bytes_total"] == 0


def test_a_pod_takes_no_more_than_it_has_room_for(
    start: Pods, tmp_path: Path, database: str
) -> None:
    """While PostgreSQL takes no rows, the rest of the backlog stays in the dead folder."""
    dead, pod = ShipperPod(tmp_path, "pod-a"), ShipperPod(tmp_path, "pod-b")
    sent = dead.has_answered(3000, segment_bytes=1 << 18, max_bytes=1 << 28)
    maximum = 1 << 20
    with psycopg.connect(database) as blocking:
        blocking.execute("LOCK TABLE predictions IN SHARE MODE")
        running = start(pod, database, silent=0, FRAUDOPS_AUDIT__SPOOL_MAX_BYTES=str(maximum))
        expect_status(
            running, lambda status: status.adopted_bytes > 0 and status.abandoned_bytes > 0
        )
        assert running.status.adopted_bytes <= maximum * 9 // 16
    expect(database, sent)
    expect_gone(dead)
    expect_status(running, lambda status: (status.shipped, status.replayed) == (len(sent), 0))


def test_dead_letters_move_to_a_living_pod(start: Pods, tmp_path: Path, database: str) -> None:
    dead, pod = ShipperPod(tmp_path, "pod-a"), ShipperPod(tmp_path, "pod-b")
    DeadLetters(dead.folder).put(
        [RejectedRecord(b"no frame", "damaged or unfinished: w.seg from byte 0")]
    )
    entries = list(DeadLetters(dead.folder).entries())
    running = start(pod, NOWHERE.format(free_port()), silent=0)
    expect_gone(dead)
    assert list(DeadLetters(pod.folder).entries()) == entries
    assert running.end() == 0
    assert list(DeadLetters(pod.folder).entries()) == entries


def test_positions_move_with_their_segments(start: Pods, tmp_path: Path, database: str) -> None:
    """The dead pod ships half of a segment and the other pod the rest; no row is sent twice."""
    old, new = ShipperPod(tmp_path, "pod-a"), ShipperPod(tmp_path, "pod-b")
    writer = SpoolWriter(old.folder, "pod-a-1", SpoolOptions())
    records: list[Record] = [prediction() for _ in range(20)]
    writer.append_many([encode(record) for record in records[:10]])
    running = start(old, database)
    expect(database, [record.id for record in records[:10]])
    # Rows are in the table before the position is written. A shipper killed in between would
    # send them again, so this test waits for the status that follows the position.
    expect_status(running, lambda status: status.shipped == 10)
    running.end(signal.SIGKILL)
    writer.append_many([encode(record) for record in records[10:]])
    writer.close()
    next_one = start(new, database)
    expect(database, [record.id for record in records])
    expect_gone(old)
    expect_status(next_one, lambda status: (status.shipped, status.replayed) == (10, 0))


def test_a_folder_with_a_file_of_a_person_is_kept(
    start: Pods, tmp_path: Path, database: str
) -> None:
    dead, pod = ShipperPod(tmp_path, "pod-a"), ShipperPod(tmp_path, "pod-b")
    sent = dead.has_answered(3)
    (dead.folder / "notes.txt").write_text("look at this")
    start(pod, database, silent=0)
    expect(database, sent)
    eventually(
        lambda: (
            [path.name for path in dead.folder.iterdir() if path.name != ALIVE] == ["notes.txt"]
            or pytest.fail("the folder holds more than notes.txt")
        )
    )


def test_a_shipper_whose_folder_was_taken_ends_and_starts_with_a_new_one(
    start: Pods, tmp_path: Path, database: str
) -> None:
    pod = ShipperPod(tmp_path, "pod-a")
    running = start(pod, database)
    pod.folder.rename(pod.volume / "taken")
    assert running.process.wait(20) == 75
    assert "supports flock across nodes" in running.log.read_text()
    start(pod, database)
    sent = fill(pod.state.spool, [prediction()])
    expect(database, sent)


def test_the_service_writes_to_its_folder_on_the_volume_which_is_shipped_after_a_kill(
    start: Pods, tmp_path: Path, database: str
) -> None:
    dead, pod = ShipperPod(tmp_path, "pod-a"), ShipperPod(tmp_path, "pod-b")
    settings = {"FRAUDOPS_POD": dead.name, "FRAUDOPS_SPOOL_VOLUME": str(dead.volume)}
    service = Service(dead.state.root, workers=2, environment=settings).promoted(1)
    try:
        sent = [service.predict().json()["prediction_id"] for _ in range(20)]
        running = start(pod, database, silent=0)
        expect_status(
            running, lambda status: status.phase == "shipping" and status.abandoned_bytes == 0
        )
        assert ids(database) == []
    finally:
        service.kill()
    expect(database, sent)
    expect_gone(dead)


def test_a_missing_volume_ends_the_service_with_the_code_of_an_unavailable_store(
    tmp_path: Path,
) -> None:
    (tmp_path / "file").touch()
    service = Service(
        tmp_path / "pod", environment={"FRAUDOPS_SPOOL_VOLUME": str(tmp_path / "file" / "volume")}
    )
    service.start(wait=False)
    assert service.process
    assert service.process.wait(20) == 75
    assert "the spool's volume" in service.log
