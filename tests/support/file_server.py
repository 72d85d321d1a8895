"""A real HTTP server for downloads: with or without Range, complete or cut off."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Served:
    """The file and the behaviour of the server, and each request's Range header in `ranges`."""

    content: bytes
    ranged: bool = True
    break_after: int | None = None
    status: int | None = None
    content_type: str = "text/csv"
    url: str = ""
    ranges: list[str | None] = field(default_factory=list)


@contextmanager
def serve(served: Served, path: str = "/creditcard.csv") -> Iterator[Served]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            range_header = self.headers.get("Range")
            served.ranges.append(range_header)
            start = (
                int(range_header.removeprefix("bytes=").removesuffix("-"))
                if range_header and served.ranged
                else 0
            )
            status = served.status or (
                416 if start >= len(served.content) else 206 if start else 200
            )
            body = served.content[start:] if status in (200, 206) else b""
            self.send_response(status)
            self.send_header("Content-Type", served.content_type)
            self.send_header("Content-Length", str(len(body)))
            if status == 206:
                self.send_header(
                    "Content-Range",
                    f"bytes {start}-{len(served.content) - 1}/{len(served.content)}",
                )
            self.end_headers()
            if served.break_after is None:
                self.wfile.write(body)
            else:
                self.wfile.write(body[: served.break_after])
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        served.url = f"http://127.0.0.1:{server.server_port}{path}"
        try:
            yield served
        finally:
            server.shutdown()
            thread.join()
