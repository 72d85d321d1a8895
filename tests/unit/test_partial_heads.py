"""Heads that come in several segments count in full, wherever they are cut."""

import pytest

from tests.support.http_wire import BODY, WireApplication, connect, request, settle


@pytest.mark.parametrize("before", [0, 200, 50_000], ids=["first", "behind one", "behind a body"])
@pytest.mark.parametrize("headers", ["", "B: c\r\n"], ids=["first header", "second header"])
async def test_a_header_line_counts_before_it_is_complete(before: int, headers: str) -> None:
    earlier = b""
    if before:
        length = b"Content-Length: %d" % before
        earlier = request("POST /a HTTP/1.1").replace(b"Content-Length: %d" % len(BODY), length)
        earlier = earlier.removesuffix(BODY) + b" " * before
    line = f"GET /b HTTP/1.1\r\n{headers}A: ".encode()
    for size, statuses in ((16_200, [204]), (17_000, [431]), (100_000, [431])):
        whole = earlier + line + b"a" * size + b"\r\nHost: x\r\n\r\n"
        for cut in (3, len(line) - 9, len(line) + 10, len(line) + size - 10):
            application = WireApplication()
            protocol, transport = connect(application)
            protocol.data_received(whole[: len(earlier) + cut])
            protocol.data_received(whole[len(earlier) + cut :])
            await settle()
            assert transport.statuses == [204] * bool(earlier) + statuses


async def test_a_header_that_never_ends_is_refused_in_its_first_segment() -> None:
    for line in (b"GET /b HTTP/1.1\r\nA: ", b"GET /b HTTP/1.1\r\nB: c\r\nA: "):
        protocol, transport = connect(WireApplication())
        protocol.data_received(line + b"a" * 17_000)
        assert transport.statuses == [431]
