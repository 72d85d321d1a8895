"""The stages of a connection, and its end."""

import asyncio
from time import perf_counter
from typing import Any

import pytest

from fraudops.settings import HttpSettings
from services.inference.http import client_connection
from services.inference.http.connections import (
    OWN_DESCRIPTORS,
    UNREAD_SECONDS,
    Connections,
)
from tests.support.http_wire import (
    BODY,
    CountedConnections,
    WireApplication,
    connect,
    request,
    settle,
)


async def test_a_connection_that_lingers_discards_and_then_closes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client_connection, "LINGER_SECONDS", 0.05)
    protocol, transport = connect(WireApplication())
    protocol.data_received(b"nonsense\r\n\r\n")
    assert (transport.statuses, transport.ended, transport.closing) == ([400], True, False)
    await asyncio.sleep(0.2)
    assert transport.closing
    other, flooded = connect(WireApplication())
    other.data_received(b"nonsense\r\n\r\n")
    for _ in range(33):
        other.data_received(b"x" * (1 << 20))
    assert flooded.closing


async def test_a_client_that_has_sent_all_still_gets_its_answer() -> None:
    application = WireApplication()
    application.may_answer.clear()
    protocol, transport = connect(application)
    protocol.data_received(request("POST /predict?slow HTTP/1.1"))
    await settle()
    assert protocol.eof_received()
    application.may_answer.set()
    await settle()
    assert transport.statuses == [204]
    assert transport.closing
    cut, answered = connect(application)
    cut.data_received(request("POST /b HTTP/1.1")[:-5])
    await settle()
    assert cut.eof_received()
    await settle()
    assert answered.statuses == [400]
    idle, _ = connect(application)
    assert not idle.eof_received()


async def test_a_server_that_stops_answers_waiting_requests_first() -> None:
    application = WireApplication()
    protocol, transport = connect(application)
    protocol.data_received(request())
    protocol.shutdown()
    assert transport.statuses == [200]


async def test_an_idle_connection_of_a_stopping_server_answers_once_more() -> None:
    application = WireApplication()
    protocol, transport = connect(application)
    protocol.data_received(request())
    await settle()
    protocol.shutdown()
    assert not transport.closing
    protocol.data_received(request())
    await settle()
    assert transport.statuses == [200, 204]
    assert transport.closing
    assert b"connection: close" in transport.written
    quiet, silent = connect(application)
    quiet.shutdown()
    assert not silent.closing
    await asyncio.sleep(0.1)
    assert silent.closing


async def test_a_disconnected_client_gets_no_answer() -> None:
    application = WireApplication()
    protocol, transport = connect(application)
    protocol.data_received(request())
    transport.closing = True
    protocol.connection_lost(None)
    await settle()
    assert transport.written == b""


@pytest.mark.parametrize("started", [False, True])
async def test_a_cancelled_answer_ends_its_connection_and_logs_nothing(
    started: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """At the end of a stop, uvicorn cancels what clients have not read."""

    async def endless(scope: Any, receive: Any, send: Any) -> None:
        if started:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        await asyncio.Event().wait()

    application: Any = endless
    application.fast_path = WireApplication(willing=False)
    protocol, transport = connect(application)
    protocol.data_received(request())
    await settle()
    (task,) = protocol.server_state.tasks
    task.cancel()
    await settle()
    assert task.done()
    assert (transport.statuses, transport.aborted) == ([200] * started, True)
    assert caplog.records == []


def _later(seconds: float) -> float:
    return perf_counter() + seconds + 1


async def test_each_stage_ends_in_its_own_way() -> None:
    application, metrics = WireApplication(), CountedConnections()
    limits = HttpSettings()
    silent, closed = connect(application, metrics)
    silent.expire(_later(0))
    assert not closed.closing
    silent.expire(_later(limits.idle_seconds))
    assert (closed.statuses, closed.closing) == ([], True)
    half, refused = connect(application, metrics)
    half.data_received(request()[:40])
    half.expire(_later(limits.head_seconds))
    assert (refused.statuses, refused.ended, metrics.refused) == ([408], True, ["slow_head"])
    half.expire(_later(UNREAD_SECONDS))
    assert refused.closing


async def test_a_request_in_progress_has_no_end_but_that_of_its_client() -> None:
    application = WireApplication()
    application.may_answer.clear()
    protocol, transport = connect(application)
    protocol.data_received(request("POST /predict?slow HTTP/1.1"))
    await settle()
    protocol.expire(_later(3600))
    assert not transport.closing
    protocol.pause_writing()
    protocol.expire(perf_counter())
    assert not transport.closing
    protocol.expire(_later(UNREAD_SECONDS))
    assert transport.closing
    application.may_answer.set()
    protocol.connection_lost(None)
    await settle()


async def test_a_connection_waits_for_its_client_or_works_for_it() -> None:
    """A flood of half heads must not push out clients that are kept alive."""
    protocol, _ = connect(WireApplication())
    assert protocol.stage == "head"
    protocol.data_received(request()[:40])
    assert protocol.stage == "head"
    protocol.data_received(request()[40:])
    assert protocol.stage is None
    await settle()
    assert protocol.stage == "idle"
    protocol.data_received(request()[:40])
    assert protocol.stage == "head"


STAGES = {
    "silent": b"",
    "half a head": request()[:40],
    "half a head after an answer": request() + request()[:40],
    "no body": request("POST /b HTTP/1.1")[: -len(BODY)],
    "half a body behind an answer": request() + request("POST /b HTTP/1.1")[:-5],
    "half a body behind a slow one": request("POST /b HTTP/1.1") + request()[:-5],
    "half a head behind a slow one": request("POST /b HTTP/1.1") + request()[:40],
    "lingering": b"nonsense\r\n\r\n",
    "answered": request(),
    "answered on the usual path": request("POST /b HTTP/1.1"),
}


@pytest.mark.parametrize("sent", STAGES.values(), ids=STAGES.keys())
@pytest.mark.parametrize("unread", [False, True])
async def test_a_client_that_stops_anywhere_makes_room(sent: bytes, unread: bool) -> None:
    application, connections = WireApplication(), registry_of(1)
    protocol, transport = connect(application, connections=connections)
    protocol.data_received(sent)
    await settle()
    if unread:
        protocol.pause_writing()
        transport.unread = 1
    other, accepted = connect(application, connections=connections)
    assert (transport.closing, accepted.statuses) == (True, [])
    # A transport that has something to write would not close before its client reads.
    assert transport.aborted or transport.unread == 0
    other.data_received(request())
    await settle()
    assert accepted.statuses == [200]


async def test_a_client_whose_request_is_worked_on_keeps_its_place() -> None:
    application, connections = WireApplication(), registry_of(1)
    application.may_answer.clear()
    protocol, transport = connect(application, connections=connections)
    protocol.data_received(
        request("POST /predict?slow HTTP/1.1") + request("POST /b HTTP/1.1")[:-5]
    )
    await settle()
    _, refused = connect(application, connections=connections)
    assert (transport.closing, refused.statuses) == (False, [503])
    application.may_answer.set()
    await settle()
    _, accepted = connect(application, connections=connections)
    assert (transport.aborted, accepted.statuses) == (True, [])


async def test_a_client_that_reads_again_is_idle_again() -> None:
    application, connections = WireApplication(), registry_of(1)
    protocol, transport = connect(application, connections=connections)
    protocol.data_received(request())
    protocol.pause_writing()
    await settle()
    assert protocol.stage == "stuck"
    protocol.resume_writing()
    assert protocol.stage == "idle"
    connect(application, connections=connections)
    assert (transport.closing, transport.aborted) == (True, False)


def registry_of(places: int) -> Connections:
    metrics: Any = CountedConnections()
    return Connections(HttpSettings(), metrics, OWN_DESCRIPTORS + places)
