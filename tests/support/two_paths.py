"""Requests to /predict, byte by byte: one form for the fast path, one for the dispatcher."""

import json
import socket
from typing import Any

from tests.support.serving import ULB_ROW, Service

BODY = json.dumps(ULB_ROW | {"transaction_id": "t-1"}).encode()
BAD = json.dumps(ULB_ROW | {"V1": "x"}).encode()
TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Wire:
    """A connection whose bytes the test writes and reads itself."""

    def __init__(self, service: Service) -> None:
        self.socket = socket.create_connection(("127.0.0.1", service.port), timeout=10)
        self.file = self.socket.makefile("rb")

    def __enter__(self) -> "Wire":
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.socket.close()

    def answer(self) -> tuple[int, dict[str, str], dict[str, Any]]:
        """Read one answer and return its status, headers and body."""
        status = int(self.file.readline().split()[1])
        headers = {}
        while line := self.file.readline().strip():
            name, _, value = line.decode().partition(": ")
            headers[name] = value
        return status, headers, json.loads(self.file.read(int(headers["content-length"])))


HEAD = "POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"


def with_length(body: bytes, more: str = "") -> bytes:
    return f"{HEAD}{more}Content-Length: {len(body)}\r\n\r\n".encode() + body


def chunked(body: bytes, more: str = "") -> bytes:
    head = f"{HEAD}{more}Transfer-Encoding: chunked\r\n\r\n".encode()
    return head + (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + b"0\r\n\r\n"


def ask(service: Service, request: bytes) -> tuple[int, dict[str, str], dict[str, Any]]:
    with Wire(service) as wire:
        wire.socket.sendall(request)
        return wire.answer()
