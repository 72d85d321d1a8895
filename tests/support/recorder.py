"""A proxy that records the requests of a client, and recorded requests."""

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.processes import free_port

RECORDED = Path(__file__).parents[1] / "contract/clients/recorded"
# What differs between two machines: the address, and the version of Python.
_VARYING = re.compile(rb"(?im)^(host|user-agent): [^\r]*")
_START = re.compile(rb"(?=(?:GET|POST) \S+ HTTP/1\.1\r\n)")


class Recorder:
    """The bytes that the clients of `port` have sent, by connection."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._sent: list[list[bytes]] = []

    def inferences(self) -> bytes:
        """Return the requests that were answered by a prediction's call, without what varies."""
        requests = [
            request for sent in self._sent for request in _START.split(b"".join(sent)) if request
        ]
        return b"".join(
            _VARYING.sub(rb"\1: of the tests", request)
            for request in requests
            if b"/models/credit-fraud/" in request.partition(b"\r\n")[0]
            and request.startswith(b"POST")
            and b"\r\ncontent-encoding:" not in request.lower()
        )

    def serve(self, client: socket.socket, target: int) -> None:
        sent: list[bytes] = []
        self._sent.append(sent)
        server = socket.create_connection(("127.0.0.1", target))
        back = threading.Thread(target=_pump, args=(server, client, []), daemon=True)
        back.start()
        _pump(client, server, sent)
        back.join(10)
        client.close()
        server.close()


@contextmanager
def recording(target: int) -> Iterator[Recorder]:
    """Forward the connections of a free port to the port `target` within the block."""
    recorder = Recorder(free_port())
    listener = socket.create_server(("127.0.0.1", recorder.port))

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=recorder.serve, args=(client, target), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield recorder
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(10)


def _pump(source: socket.socket, target: socket.socket, kept: list[bytes]) -> None:
    try:
        while part := source.recv(65_536):
            kept.append(part)
            target.sendall(part)
        target.shutdown(socket.SHUT_WR)
    except OSError:
        # One side has gone.
        return
