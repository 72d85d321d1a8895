"""What a hostile client does besides sending bytes."""

import contextlib
import socket
import struct

from tests.support.wire import GONE_SECONDS, Act, RawClient

LINGER_NOT = struct.pack("ii", 1, 0)


async def half_close(client: RawClient) -> None:
    """Send nothing more."""
    client.gave_up = True
    with contextlib.suppress(OSError):
        client.socket.shutdown(socket.SHUT_WR)


async def reset(client: RawClient) -> None:
    """End the connection like a process that dies."""
    await client.stop_reading()
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
    client.socket.close()


async def stop_reading(client: RawClient) -> None:
    """Leave the answers in the kernel, whose room for them does not grow."""
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 128 << 10)
    await client.stop_reading()


async def read_again(client: RawClient) -> None:
    """Read what is left, and what comes."""
    client.read()


async def wait_for_end(client: RawClient) -> None:
    """Say nothing more."""
    client.gave_up = True
    await client.wait(lambda: False, GONE_SECONDS)


def after_answers(number: int) -> Act:
    """Go on after that many answers."""

    async def act(client: RawClient) -> None:
        await client.wait(lambda: len(client.answers) >= number, GONE_SECONDS)

    return act


def pause(seconds: float) -> Act:
    async def act(client: RawClient) -> None:
        await client.wait(lambda: False, seconds)

    return act


def drip(data: bytes, seconds: float, size: int = 1) -> Act:
    """Send `size` bytes, wait, and so on, until the service answers or hangs up."""

    async def act(client: RawClient) -> None:
        before = len(client.received)
        for start in range(0, len(data), size):
            await client.send(data[start : start + size])
            if await client.wait(lambda: len(client.received) > before, seconds):
                return
            if client.end != "open":
                return

    return act


def sip(seconds: float, number: int) -> Act:
    """Read a byte each `seconds`, and then what is left."""

    async def act(client: RawClient) -> None:
        for _ in range(number):
            await client.read_one_byte()
            await client.wait(lambda: False, seconds)
        await read_again(client)
        await wait_for_end(client)

    return act


def flood(unit: bytes, size: int, whole: bool = False) -> Act:
    """Send `size` bytes of the same, until the service hangs up.

    By default the client reads: it stops at an answer. With `whole` it does not care.
    """

    async def act(client: RawClient) -> None:
        before = len(client.received)
        part = unit * max(1, (256 << 10) // len(unit))
        for _ in range(0, size, len(part)):
            await client.send(part)
            if client.end != "open" or (len(client.received) > before and not whole):
                return

    return act
