"""Requests that take the fast path, with uvicorn's own protocol around it.

An upgrade of uvicorn that disables the fast path must fail here.
"""

import re

import pytest

from tests.support.http_wire import BODY, WireApplication, connect, request, settle


async def test_every_usual_request_in_one_piece_takes_the_fast_path() -> None:
    application = WireApplication()
    protocol, transport = connect(application)
    for number in range(3):
        protocol.data_received(
            request(X_Request_Id=f"r-{number}", Connection="keep-alive", traceparent="00-1")
        )
        await settle()
    assert application.taken == [(BODY, f"r-{number}") for number in range(3)]
    assert transport.written.count(b"HTTP/1.1 200 OK\r\n") == 3
    assert transport.written.endswith(b"content-length: 4\r\nx-request-id: r-2\r\n\r\nfast")
    assert protocol.server_state.total_requests == 3
    assert application.usual == []


@pytest.mark.parametrize(
    "unusual",
    [
        request("POST /predict?debug=1 HTTP/1.1"),
        request("POST /predict/batch HTTP/1.1"),
        request("PUT /predict HTTP/1.1"),
        request("POST /predict HTTP/1.0"),
        request("POST /predict HTTP/1.0", Connection="keep-alive"),
        request(Connection="close"),
        request(Content_Type="text/plain"),
        request(Expect="100-continue"),
        request(Upgrade="h2c"),
    ],
)
async def test_an_unusual_request_reaches_the_application_with_its_body(unusual: bytes) -> None:
    application = WireApplication()
    protocol, _ = connect(application)
    protocol.data_received(unusual)
    await settle()
    assert (application.taken, application.usual) == ([], [BODY])


async def test_a_request_in_pieces_or_declined_reaches_the_application_complete() -> None:
    application, refusing = WireApplication(), WireApplication(willing=False)
    for cut in (3, 60, len(request()) - 5):
        protocol, _ = connect(application)
        protocol.data_received(request()[:cut])
        protocol.data_received(request()[cut:])
        await settle()
    protocol, transport = connect(refusing)
    protocol.data_received(request())
    await settle()
    assert refusing.usual == [BODY]
    assert transport.written.startswith(b"HTTP/1.1 204")
    # Cut within its head, the body still arrives in one piece.
    assert application.usual == [BODY]
    assert application.taken == [(BODY, None)] * 2


async def test_a_client_that_does_not_read_its_answers_leaves_the_fast_path() -> None:
    application = WireApplication()
    protocol, _ = connect(application)
    protocol.pause_writing()
    protocol.data_received(request())
    await settle()
    assert application.taken == []
    protocol.resume_writing()
    await settle()


async def test_pipelined_answers_keep_their_order_on_both_paths() -> None:
    application = WireApplication()
    protocol, transport = connect(application)
    application.may_answer.clear()
    slow, quick = request("POST /predict?slow HTTP/1.1"), request("POST /predict?quick HTTP/1.1")
    protocol.data_received(request() + slow + quick + request())
    await settle()
    assert transport.written.count(b"HTTP/1.1") == 1, "nothing may pass the slow one"
    application.may_answer.set()
    await settle()
    assert re.findall(rb"HTTP/1.1 (\d+)", transport.written) == [b"200", b"204", b"204", b"204"]


@pytest.mark.parametrize("willing", [True, False])
@pytest.mark.parametrize("cut", [None, 60, -5], ids=["whole", "in its head", "in its body"])
@pytest.mark.parametrize("hosts", [b"", b"Host: x\r\nHost: y\r\n", b"host: x\r\nHOST: x\r\n"])
async def test_a_prediction_without_one_host_is_refused_on_both_paths(
    hosts: bytes, cut: int | None, willing: bool
) -> None:
    application = WireApplication(willing)
    protocol, transport = connect(application)
    whole = request().replace(b"Host: x\r\n", hosts)
    protocol.data_received(whole[:cut])
    if cut:
        protocol.data_received(whole[cut:])
    await settle()
    assert transport.statuses == [400]
    assert application.taken == application.usual == []


async def test_the_admin_port_has_no_fast_path() -> None:
    for port, taken in ((8000, 1), (8001, 0)):
        application = WireApplication()
        protocol, _ = connect(application, port=port, admin_port=8001)
        protocol.data_received(request())
        await settle()
        assert (len(application.taken), len(application.usual)) == (taken, 1 - taken)
