"""The handover of a leaving pod's spool: every record once, to a pod that has room for it."""

import contextlib
import shutil
import signal
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import psycopg
import pytest

from fraudops.audit.dead_letter_files import DeadLetter
from fraudops.audit.dead_letters import DeadLetters, RejectedRecord
from fraudops.audit.records import decode, encode
from fraudops.audit.shipper_status import read_shipper_status
from fraudops.spool import SpoolWriter
from fraudops.spool.inspection import payloads
from fraudops.spool.options import SpoolOptions
from fraudops.spool.segments import list_segments, spool_bytes
from fraudops.state import State
from services.shipper import handover
from services.shipper.handover import hand_over
from tests.support.audit_records import prediction, refusals
from tests.support.http_client import HTTP
from tests.support.processes import free_port
from tests.support.serving import TOKEN, Service, problem
from tests.support.shippers import expect, ids
from tests.support.waiting import eventually
from tests.support.warm_start import start_python

ROOM = 4 << 20
# The shipper, with the pod of its argument as its only peer.
SHIPPER = """
import sys
from services.shipper import __main__ as shipper, handover
handover.peer_urls = lambda *_: [sys.argv[1]]
shipper.main()
"""
BEARER = {"Authorization": f"Bearer {TOKEN}"}


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[Service]:
    settings = {
        "FRAUDOPS_ADMIN_PORT": str(free_port()),
        "FRAUDOPS_AUDIT__SPOOL_MAX_BYTES": str(ROOM),
        "FRAUDOPS_AUDIT__SEGMENT_MAX_BYTES": str(1 << 20),
    }
    service = Service(folder, workers=1, environment=settings).promoted(1)
    try:
        yield service
    finally:
        service.stop()


@pytest.fixture(scope="module")
def one_pod(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    with serving(tmp_path_factory.mktemp("handover") / "pod") as service:
        yield service


@pytest.fixture
def pod(one_pod: Service) -> Iterator[Service]:
    """Yield the module's pod; delete what a test handed over to it."""
    yield one_pod
    for segment in list_segments(one_pod.state.spool):
        if not segment.writer.startswith("local-"):
            (one_pod.state.spool / segment.name).unlink()
    shutil.rmtree(one_pod.state.spool / "aside", ignore_errors=True)


def admin_url(service: Service) -> str:
    return f"http://127.0.0.1:{service.environment['FRAUDOPS_ADMIN_PORT']}"


def write_closed_spool(folder: Path, records: int, size: int = 0) -> list[bytes]:
    """Write a spool whose writer has closed it; return its payloads."""
    writer = SpoolWriter(folder, "leaving-1", SpoolOptions(segment_bytes=1 << 20))
    written = [encode(prediction(features={"V1": 0.5, "text": "x" * size})) for _ in range(records)]
    written += [encode(refusals())] if records else []
    for payload in written:
        writer.append(payload)
    writer.close()
    return written


def payloads_of(service: Service) -> list[bytes]:
    return sorted(
        payload
        for segment in list_segments(service.state.spool)
        for payload in payloads(service.state.spool / segment.name)
    )


def test_every_record_goes_to_the_first_pod_that_answers(pod: Service, tmp_path: Path) -> None:
    written = write_closed_spool(tmp_path / "spool", 500, size=3000)
    assert len(list_segments(tmp_path / "spool")) > 1
    assert (
        hand_over(tmp_path / "spool", [f"http://127.0.0.1:{free_port()}", admin_url(pod)], TOKEN)
        == 0
    )
    assert list_segments(tmp_path / "spool") == []
    assert payloads_of(pod) == sorted(written)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://u:p@127.0.0.1:1/d?sslmode=verify-full&sslrootcert=/nowhere/ca.crt",
        "postgresql://u@127.0.0.1:1/d?password_file=/nowhere/password",
        "file:/nowhere/url",
    ],
    ids=["certificate", "password", "url"],
)
def test_a_file_that_is_wrong_at_the_start_does_not_keep_the_shipper_from_handing_over(
    pod: Service, state: State, url: str
) -> None:
    written = write_closed_spool(state.spool, 20)
    with leaving_shipper(state, url, admin_url(pod)):
        eventually(lambda: has_failed(state, "DATABASE_URL"))
    assert list_segments(state.spool) == []
    assert payloads_of(pod) == sorted(written)


def has_failed(state: State, words: str) -> None:
    status = read_shipper_status(state)
    assert status
    assert words in (status.last_error or "")


@contextlib.contextmanager
def leaving_shipper(state: State, url: str, peer: str = "") -> Iterator[None]:
    """Run a shipper during the block. At its end it hands the spool over to `peer`, if any."""
    environment = {
        "DATABASE_URL": url,
        "FRAUDOPS_STATE": str(state.root),
        "FRAUDOPS_ADMIN_TOKEN": TOKEN,
        "HOME": str(state.root),
    } | ({"FRAUDOPS_CLUSTER__RELEASE": "test"} if peer else {})
    with (state.root / "shipper.log").open("wb") as log:
        shipper = start_python(["-c", SHIPPER, peer], environment, log)
        try:
            yield
            shipper.send_signal(signal.SIGTERM)
            assert shipper.wait(20) == 0
        finally:
            shipper.kill()
            shipper.wait(20)


def test_records_that_postgresql_refuses_are_handed_over_and_kept_by_the_receiver_too(
    pod: Service, state: State, database: str
) -> None:
    written = write_closed_spool(state.spool, 20)
    with psycopg.connect(database) as connection:
        connection.execute("ALTER TABLE predictions ADD CONSTRAINT wrong CHECK (threshold < 0)")
    with leaving_shipper(state, database, admin_url(pod)):
        eventually(lambda: has_failed(state, "constraint wrong of table predictions"))
    assert list_segments(state.spool) == []
    assert payloads_of(pod) == sorted(written)
    with leaving_shipper(pod.state, database):
        eventually(lambda: has_failed(pod.state, "constraint wrong of table predictions"))
        with psycopg.connect(database) as connection:
            connection.execute("ALTER TABLE predictions DROP CONSTRAINT wrong")
        expect(database, [decode(payload).id for payload in written[:-1]])
    assert ids(database, "refusals") == [decode(written[-1]).id]
    assert dead_letters_in(pod.state.spool) == dead_letters_in(state.spool) == []


def test_a_segment_that_is_sent_again_changes_nothing(pod: Service, tmp_path: Path) -> None:
    write_closed_spool(tmp_path / "spool", 20)
    (segment,) = list_segments(tmp_path / "spool")
    data = (tmp_path / "spool" / segment.name).read_bytes()
    for _ in range(2):
        assert (
            HTTP.put(
                f"{admin_url(pod)}/spool/{segment.name}", content=data, headers=BEARER
            ).status_code
            == 204
        )
    assert (pod.state.spool / segment.name).read_bytes() == data


def test_a_pod_that_is_over_half_full_takes_nothing_and_nothing_is_lost(
    pod: Service, tmp_path: Path
) -> None:
    written = write_closed_spool(tmp_path / "spool", 1200, size=3000)
    before = len(list_segments(tmp_path / "spool"))
    left = hand_over(tmp_path / "spool", [admin_url(pod)], TOKEN)
    assert 0 < left < before
    assert len(list_segments(tmp_path / "spool")) == left
    kept = [
        payload
        for segment in list_segments(tmp_path / "spool")
        for payload in payloads(tmp_path / "spool" / segment.name)
    ]
    assert sorted([*kept, *payloads_of(pod)]) == sorted(written)


def test_a_segment_that_is_still_written_to_stays(pod: Service, tmp_path: Path) -> None:
    writer = SpoolWriter(tmp_path / "spool", "alive", SpoolOptions())
    written = [encode(prediction()) for _ in range(2)]
    writer.append(written[0])
    assert hand_over(tmp_path / "spool", [admin_url(pod)], TOKEN) == 1
    writer.append(written[1])
    writer.close()
    assert hand_over(tmp_path / "spool", [admin_url(pod)], TOKEN) == 0
    assert payloads_of(pod) == sorted(written)


def test_a_pod_that_hangs_is_waited_for_once(
    pod: Service, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(handover, "TIMEOUT", httpx.Timeout(0.5))
    write_closed_spool(tmp_path / "spool", 500, size=3000)
    assert len(list_segments(tmp_path / "spool")) > 1
    with socket.create_server(("127.0.0.1", 0)) as hanging:
        url = f"http://127.0.0.1:{hanging.getsockname()[1]}"
        assert hand_over(tmp_path / "spool", [url], TOKEN) == len(list_segments(tmp_path / "spool"))
        hanging.setblocking(False)
        hanging.accept()[0].close()
        with pytest.raises(BlockingIOError):
            hanging.accept()
        assert hand_over(tmp_path / "spool", [url, admin_url(pod)], TOKEN) == 0


def test_segments_that_arrive_together_take_no_more_than_the_free_room(
    pod: Service, tmp_path: Path
) -> None:
    write_closed_spool(tmp_path / "spool", 1200, size=3000)
    segments = [
        (segment.name, (tmp_path / "spool" / segment.name).read_bytes())
        for segment in list_segments(tmp_path / "spool")
    ]
    assert sum(len(data) for _, data in segments) > ROOM // 2
    half_sent = threading.Barrier(len(segments))
    before = len(list_segments(pod.state.spool))

    def give(name: str, data: bytes) -> int:
        def parts() -> Iterator[bytes]:
            yield data[: len(data) // 2]
            half_sent.wait(10)
            yield data[len(data) // 2 :]

        with httpx.Client(headers=BEARER, trust_env=False) as client:
            return client.put(
                f"{admin_url(pod)}/spool/{name}",
                content=parts(),
                headers={"Content-Length": str(len(data))},
            ).status_code

    with ThreadPoolExecutor(len(segments)) as pool:
        statuses = list(pool.map(lambda segment: give(*segment), segments))
    assert 503 in statuses
    assert spool_bytes(pod.state.spool) <= ROOM // 2
    assert statuses.count(204) == len(list_segments(pod.state.spool)) - before


def test_a_segment_that_a_killed_pod_had_half_received_is_deleted(pod: Service) -> None:
    before = pod.worker_pids()[0]
    pod.kill()
    unfinished = pod.state.spool / ".incoming-1"
    unfinished.write_bytes(b"x")
    pod.start()

    def swept() -> None:
        assert not unfinished.exists()
        assert pod.worker_pids()[0] != before
        pod.ready()

    eventually(swept)


UNREADABLE = RejectedRecord(b"\xf1op1 no whole frame", "damaged or unfinished: w.seg from byte 0")


def write_dead_letters(spool: Path) -> list[DeadLetter]:
    """Write dead letters: a refused record, unreadable bytes, and half a line of a dead shipper."""
    DeadLetters(spool).put(
        [RejectedRecord(encode(prediction()), "PostgreSQL refuses it: no reason"), UNREADABLE]
    )
    entries = list(DeadLetters(spool).entries())
    [path] = (spool / "aside").glob("*.jsonl")
    with path.open("ab") as file:
        file.write(b'{"at": "2026')
    return entries


def dead_letters_in(folder: Path) -> list[DeadLetter]:
    return list(DeadLetters(folder).entries())


@pytest.mark.parametrize("records", [0, 3], ids=["all else shipped", "records left"])
def test_dead_letters_are_handed_over_unchanged(pod: Service, tmp_path: Path, records: int) -> None:
    written = write_closed_spool(tmp_path / "spool", records)
    entries = write_dead_letters(tmp_path / "spool")
    assert (
        hand_over(tmp_path / "spool", [f"http://127.0.0.1:{free_port()}", admin_url(pod)], TOKEN)
        == 0
    )
    assert payloads_of(pod) == sorted(written)
    assert dead_letters_in(pod.state.spool) == entries
    assert dead_letters_in(tmp_path / "spool") == []
    replayed = DeadLetters(pod.state.spool).replay()
    assert (replayed.records, replayed.kept) == (1, 1)
    assert [entry.data for entry in dead_letters_in(pod.state.spool)] == [UNREADABLE.payload]


def test_dead_letters_that_are_sent_again_change_nothing(pod: Service, tmp_path: Path) -> None:
    entries = write_dead_letters(tmp_path / "spool")
    with DeadLetters(tmp_path / "spool").for_handover() as paths:
        [path] = paths
    data = path.read_bytes()
    for _ in range(2):
        path.write_bytes(data)
        assert hand_over(tmp_path / "spool", [admin_url(pod)], TOKEN) == 0
    assert dead_letters_in(pod.state.spool) == entries


def test_dead_letters_stay_while_no_pod_has_room_or_a_replay_runs(
    pod: Service, tmp_path: Path
) -> None:
    write_dead_letters(tmp_path / "spool")
    DeadLetters(pod.state.spool).put(
        [RejectedRecord(b"x" * (1 << 20), "damaged or unfinished: w.seg from byte 0")] * 2
    )
    assert hand_over(tmp_path / "spool", [admin_url(pod)], TOKEN) == 1
    with DeadLetters(tmp_path / "spool").for_handover():
        assert hand_over(tmp_path / "spool", [admin_url(pod)], TOKEN) == 1
    assert len(dead_letters_in(tmp_path / "spool")) == len(dead_letters_in(pod.state.spool)) == 2


@pytest.mark.parametrize(
    "name",
    [
        "serving.json",
        "..%2Fserving.json",
        "leaving-1.seg",
        ".incoming-1",
        "aside/x.jsonl",
        "aside/20261127.jsonl",
    ],
)
def test_nothing_but_segments_and_dead_letters_is_taken(pod: Service, name: str) -> None:
    answer = HTTP.put(f"{admin_url(pod)}/spool/{name}", content=b"x", headers=BEARER)
    assert answer.status_code in (404, 409)
    assert not (pod.state.spool / name).exists()


def test_a_segment_is_taken_with_the_token_and_on_the_admin_port_only(
    pod: Service, tmp_path: Path
) -> None:
    write_closed_spool(tmp_path / "spool", 3)
    assert hand_over(tmp_path / "spool", [admin_url(pod)], "a wrong token") == 1
    assert hand_over(tmp_path / "spool", [pod.url], TOKEN) == 1
    assert payloads_of(pod) == []


def test_a_draining_pod_takes_nothing(tmp_path: Path) -> None:
    write_closed_spool(tmp_path / "spool", 3)
    with serving(tmp_path / "pod") as pod:
        assert HTTP.post(f"{admin_url(pod)}/drain", headers=BEARER).status_code == 200
        assert hand_over(tmp_path / "spool", [admin_url(pod)], TOKEN) == 1
        (segment,) = list_segments(tmp_path / "spool")
        refused = HTTP.put(f"{admin_url(pod)}/spool/{segment.name}", content=b"x", headers=BEARER)
        assert problem(refused)["detail"] == "this pod is shutting down too"
