"""Requests that two servers could read differently: one row each.

A row has the bytes of a client, the answers it may get, whether its connection is usable
afterwards, and where the rule stands. `cases.py` has the whole table.
"""

from tests.support.serving import TOKEN
from tests.support.wire import Step
from tests.support.wire_cases import (
    BODY,
    CARD,
    SMUGGLED,
    Case,
    batch,
    chunked,
    chunks,
    closed,
    get,
    head,
    kept,
    post,
    refused,
)
from tests.support.wire_steps import after_answers, pause

FRAMING, CHUNKS, FIELDS = "RFC 9112, 6.3", "RFC 9112, 7.1", "RFC 9112, 5"
SPLIT, UPGRADE, TARGET = "RFC 9112, 11.2", "RFC 9110, 7.8", "RFC 9112, 3.2"
METHOD, ASKS, TRAILERS = "RFC 9112, 3", "RFC 9110, 10.1.1", "RFC 9110, 6.5.1"
PIPELINE, CLOSE, OURS = "RFC 9112, 9.3.2", "RFC 9112, 9.6", "docs/http-api.md"
TE, EXPECT, V10 = "Transfer-Encoding: ", "Expect: 100-continue", "POST /predict HTTP/1.0"
CONNECT = "CONNECT x:80 HTTP/1.1"
H2C = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")
WEBSOCKET = ("Connection: Upgrade", "Upgrade: websocket")
LENGTH, HIDDEN_LENGTH = f"Content-Length: {len(BODY)}", f"Content-Length: {len(SMUGGLED)}"
LONGER = f"Content-Length: {len(SMUGGLED) + 9}"
BATCH = post(path="/predict/batch", body=batch(300))
RELOAD = head(f"{TE}chunked", line="POST /reload HTTP/1.1")
ADMIN = f"Authorization: Bearer {TOKEN}\r\n".encode()
FRAMES, GZIP = b"Content-Length: 5\r\n", b"Content-Encoding: gzip\r\n"


def framed(*headers: str) -> bytes:
    """Return a head whose framing is odd, and a request that one of two readings would answer."""
    return head(*headers) + b"0\r\n\r\n" + SMUGGLED


def chunk_line(line: bytes) -> bytes:
    """Return a request with this line before its chunk, and a request after it."""
    return head(f"{TE}chunked") + line + BODY + b"\r\n0\r\n\r\n" + SMUGGLED


def in_parts(*parts: bytes) -> list[Step]:
    """Return the steps of a client that sends in several segments."""
    return [step for part in parts for step in (part, pause(0.05))]


SMUGGLING: tuple[Case, ...] = (
    # -- two readings of the length
    refused("CL.TE", framed("Content-Length: 5", f"{TE}chunked"), FRAMING),
    refused("TE.CL", framed(f"{TE}chunked", "Content-Length: 5"), FRAMING),
    refused("TE.TE", framed(f"{TE}chunked", f"{TE}identity"), FRAMING),
    refused("TE twice", framed(f"{TE}chunked", f"{TE}chunked"), FRAMING),
    refused("gzip, chunked", framed(f"{TE}gzip, chunked"), FRAMING),
    refused("chunked, identity", framed(f"{TE}chunked, identity"), FRAMING),
    refused("chunked,", framed(f"{TE}chunked,"), FRAMING),
    refused("xchunked", framed(f"{TE}xchunked"), FRAMING),
    refused("chunked in quotes", framed(f'{TE}"chunked"'), FRAMING),
    refused("VT before chunked", framed(f"{TE}\x0bchunked"), FRAMING),
    refused("TE empty", framed(TE), FRAMING),
    kept("Chunked", chunked().replace(b": chunked", b": Chunked"), 200, FRAMING),
    kept("tab before chunked", chunked().replace(b": ch", b":\tch"), 200, FRAMING),
    refused("TE on 1.0", head(f"{TE}chunked", line=V10) + chunks() + SMUGGLED, FRAMING),
    refused("two equal lengths", framed("Content-Length: 5", "Content-Length: 5"), FRAMING),
    refused("two lengths", framed("Content-Length: 5", "Content-Length: 6"), FRAMING),
    refused("a list of lengths", framed("Content-Length: 5, 5"), FRAMING),
    refused("negative length", framed("Content-Length: -5"), FRAMING),
    refused("signed length", framed("Content-Length: +5"), FRAMING),
    refused("hexadecimal length", framed("Content-Length: 0x5"), FRAMING),
    refused("length above 64 bits", framed("Content-Length: 18446744073709551621"), FRAMING),
    refused("empty length", framed("Content-Length:"), FRAMING),
    refused("length with a space within", framed("Content-Length: 5 5"), FRAMING),
    kept("no length", head() + post(), (422, 200), FRAMING),
    kept("GET with a body", get("/health", HIDDEN_LENGTH) + SMUGGLED, 200, FRAMING),
    closed("GET, body later", in_parts(get("/health", LONGER), SMUGGLED), 200, FRAMING),
    # -- chunks
    refused("chunk size 0x", chunk_line(b"0x%x\r\n" % len(BODY)), CHUNKS),
    refused("chunk size +", chunk_line(b"+%x\r\n" % len(BODY)), CHUNKS),
    refused("chunk size -1", chunk_line(b"-1\r\n"), CHUNKS),
    refused("chunk size above 64 bits", chunk_line(b"1%016x\r\n" % len(BODY)), CHUNKS),
    refused("chunk size and a space", chunk_line(b"%x \r\n" % len(BODY)), CHUNKS),
    refused("chunk line with a bare LF", chunk_line(b"%x\n" % len(BODY)), CHUNKS),
    refused("chunk extension with a bare LF", chunk_line(b"%x;a\n" % len(BODY)), CHUNKS),
    refused("chunk without its end", chunk_line(b"%x\r\n" % (len(BODY) - 1)), CHUNKS),
    refused("chunk end with a bare LF", head(f"{TE}chunked") + b"2\r\n{}\n" + SMUGGLED, CHUNKS),
    refused("empty chunk line", chunk_line(b"\r\n"), CHUNKS),
    kept("chunk with an extension", chunked().replace(b"\r\n{", b";a=b\r\n{"), 200, CHUNKS),
    # -- fields
    refused("obs-fold", framed("A: b\r\n c"), FIELDS),
    refused("obs-fold of a framing field", framed("Transfer-Encoding:\r\n chunked"), FIELDS),
    refused("bare LF", framed("A: b\nContent-Length: 5"), SPLIT),
    refused("bare LF at the end of the head", head()[:-2] + b"\n" + SMUGGLED, SPLIT),
    refused("bare CR", framed("A: b\rContent-Length: 5"), SPLIT),
    refused("NUL in a value", framed("A: b\0c"), FIELDS),
    refused("NUL in a name", framed("A\0: b"), FIELDS),
    refused("space before the colon", framed(f"{TE[:-2]} : chunked"), FIELDS),
    refused("space before the name", framed(" A: b"), FIELDS),
    refused("no colon", framed("A"), FIELDS),
    refused("empty name", framed(": b"), FIELDS),
    refused("name that is no token", framed("A(b: c"), FIELDS),
    refused("two credentials", framed("Authorization: a", "Authorization: b"), OURS),
    refused("two hosts", framed("Host: y"), TARGET),
    refused("no host", get().replace(b"Host: x\r\n", b"") + SMUGGLED, TARGET),
    refused("two keys", framed("X-API-Key: a", "X-API-Key: b"), OURS),
    # -- other protocols
    kept("h2c, one segment", post(*H2C), 200, UPGRADE),
    kept("h2c, chunked", chunked(*H2C), 200, UPGRADE),
    kept("h2c, body later", in_parts(head(*H2C, LENGTH), BODY), 200, UPGRADE),
    kept("h2c, chunks later", in_parts(head(*H2C, f"{TE}chunked"), chunks()), 200, UPGRADE),
    kept("h2c, pipelined", post(*H2C) * 3, (200, 200, 200), UPGRADE),
    kept("h2c, second request", post() + post(*H2C) + post(), (200, 200, 200), UPGRADE),
    kept("h2c, body is a request", post(*H2C, body=SMUGGLED), 422, UPGRADE),
    closed("h2c, close", post(*H2C[1:], "Connection: close, Upgrade") + SMUGGLED, 200, UPGRADE),
    kept("h2c and Expect", post(*H2C, EXPECT), (100, 200), UPGRADE),
    kept("h2c, two Connection", post("Connection: keep-alive", *H2C), 200, UPGRADE),
    refused("h2c and both lengths", framed(*H2C, LENGTH, f"{TE}chunked"), UPGRADE),
    refused("h2c and gzip, chunked", framed(*H2C, f"{TE}gzip, chunked"), UPGRADE),
    kept("websocket", get("/health", *WEBSOCKET), 200, UPGRADE),
    kept("websocket with a body", post(*WEBSOCKET), 200, UPGRADE),
    closed("CONNECT", head(line=CONNECT) + SMUGGLED, 405, UPGRADE),
    closed("CONNECT and Upgrade", head(*H2C, line=CONNECT) + SMUGGLED, 405, UPGRADE),
    refused("PRI", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + SMUGGLED, UPGRADE),
    refused("HTTP/1.2", head(line="GET /health HTTP/1.2") + SMUGGLED, METHOD),
    refused("HTTP/0.9", b"GET /health\r\n\r\n" + SMUGGLED, METHOD),
    refused("TLS", b"\x16\x03\x01\x02\x00" + bytes(64), METHOD),
    refused("get", head(line="get /health HTTP/1.1") + SMUGGLED, METHOD),
    kept("blank line before", b"\r\n" + get(), 200, METHOD),
    refused("space before the method", b" " + get() + SMUGGLED, METHOD),
    kept("two spaces", head(line="GET  /health HTTP/1.1"), 200, METHOD),
    kept("unknown method", head(line="PURGE /health HTTP/1.1"), 405, METHOD),
    # -- 100-continue, pipelines, trailers
    kept("Expect with its body", post(EXPECT), (100, 200), ASKS),
    kept("Expect, then the body", [head(EXPECT, LENGTH), after_answers(1), BODY], (100, 200), ASKS),
    closed("Expect and too large", head(EXPECT, "Content-Length: 70000"), 413, ASKS),
    kept("pipelined bodies", post() * 5, (200,) * 5, PIPELINE),
    kept("both paths", post() + BATCH + get("/none") + post(), (200, 200, 404, 200), PIPELINE),
    closed("request after 413", post(body=b" " * 70_000) + SMUGGLED, 413, OURS),
    kept("request after 415", post("Content-Encoding: gzip") + get(), (415, 200), OURS),
    closed("400 behind an unanswered batch", BATCH + framed("A : b"), (200, 400), PIPELINE),
    closed("400 behind a fast answer", post() + framed("A : b"), (200, 400), PIPELINE),
    closed("431 behind a batch", BATCH + head("A: " + "b" * 17_000), (200, 431), PIPELINE),
    closed("keep-alive, close", post("Connection: keep-alive, close") + SMUGGLED, 200, CLOSE),
    closed("close, then a request", get("/health", "Connection: close") + SMUGGLED, 200, CLOSE),
    closed("1.0, then a request", get(version="HTTP/1.0") + SMUGGLED, 200, CLOSE),
    kept("trailer Authorization", RELOAD + chunks(b"{}", trailers=ADMIN), 401, TRAILERS),
    refused("trailer Content-Length", head(f"{TE}chunked") + chunks(trailers=FRAMES), TRAILERS),
    kept("trailer Content-Encoding", head(f"{TE}chunked") + chunks(trailers=GZIP), 200, TRAILERS),
    # -- targets
    kept("absolute URL", post(path="http://elsewhere/predict"), 200, TARGET),
    refused("authority for a GET", head(line="GET x:80 HTTP/1.1") + SMUGGLED, TARGET),
    kept("* for a GET", head(line="GET * HTTP/1.1"), 404, TARGET),
    kept("OPTIONS *", head(line="OPTIONS * HTTP/1.1"), 204, TARGET),
    kept("..", get("/predict/../metrics"), 404, TARGET),
    kept("%2e%2e", get("/v2/%2e%2e/metrics"), 404, TARGET),
    kept("%00", get("/health%00"), 404, TARGET),
    kept("%2f", post(path="/x%2f..%2freload"), 404, TARGET),
    refused("not ASCII", head(line="GET /h\xe9 HTTP/1.1") + SMUGGLED, TARGET),
    kept("double slash", get("//health"), 404, TARGET),
    kept("/reload/", post(path="/reload/", body=b"{}"), 401, OURS),
    kept("query with a card number", post(path=f"/predict?card={CARD}"), 200, OURS),
)
