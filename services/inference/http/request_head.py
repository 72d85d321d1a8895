"""The head of a request: its line and headers, as the parser delivers them.

llhttp refuses a bare line feed, obs-fold, both lengths together, two lengths and a length that is
no number. What it accepts and another server may read differently is refused here.
"""

from urllib.parse import unquote

import httptools

from services.inference.http.problems import HeadTooLargeError, NotHttpError, UrlTooLongError

HEAD_BYTES, MOST_HEADERS = 16 << 10, 100
URL_BYTES = 8 << 10
RawHeaders = list[tuple[bytes, bytes]]
# Headers of which only one may be sent: two servers could each believe another one.
_SINGLE = frozenset({b"authorization", b"host", b"transfer-encoding", b"x-api-key"})
_VERSIONS = frozenset({"1.0", "1.1"})
# Names that ask for another protocol: as headers, and as tokens of `Connection`.
_UPGRADE = frozenset({b"upgrade", b"http2-settings"})


def size_of(url: bytes, headers: RawHeaders) -> int:
    """Return the bytes of a head. It may be a few more or fewer than on the wire."""
    return len(url) + sum([len(name) + len(value) + 4 for name, value in headers])


def partial_size_of(url: bytes, headers: RawHeaders, data: bytes) -> int:
    """Return a lower bound in bytes for a head that began in a segment and is incomplete.

    The parser delivers a header when its line is complete. Before the first one, nothing says
    where the last line of the segment begins.
    """
    line = len(data) - data.rfind(b"\r\n") - 2 if headers else 0
    return size_of(url, headers) + line


def check_size(url: bytes, headers: RawHeaders, size: int) -> None:
    """Raises UrlTooLongError, HeadTooLargeError; `size` is that of the head in bytes."""
    if len(url) > URL_BYTES:
        raise UrlTooLongError(URL_BYTES)
    if size > HEAD_BYTES or len(headers) > MOST_HEADERS:
        raise HeadTooLargeError(HEAD_BYTES, MOST_HEADERS)


def check_headers(version: str, headers: RawHeaders) -> None:
    """Raises NotHttpError for a head that two servers could read differently."""
    if version not in _VERSIONS:
        raise NotHttpError("it is not HTTP/1.1 or HTTP/1.0")
    seen = set()
    for name, value in headers:
        if name not in _SINGLE:
            continue
        if name in seen:
            raise NotHttpError(f"it has the header {name.decode()} twice")
        seen.add(name)
        if name == b"transfer-encoding" and (
            version == "1.0" or value.strip(b" \t").lower() != b"chunked"
        ):
            raise NotHttpError("its Transfer-Encoding is not chunked")
    # RFC 9112, section 3.2.
    if b"host" not in seen and version == "1.1":
        raise NotHttpError("it has no Host header")


def path_of(url: bytes) -> str:
    """Return the decoded path of a URL, or `*`. Raises NotHttpError."""
    if url == b"*":
        return "*"
    try:
        path = httptools.parse_url(url).path or b"/"
    except httptools.HttpParserError:
        raise NotHttpError("its URL is malformed") from None
    return unquote(path.decode("ascii")) if b"%" in path else path.decode("ascii")


def without_upgrade(method: bytes, url: bytes, version: str, headers: RawHeaders) -> bytes:
    """Return the head as bytes, without the request for another protocol.

    A server may ignore `Upgrade` (RFC 9110, section 7.8). The parser does not, and skips the body.
    """
    lines = [b"%b %b HTTP/%b" % (method, url, version.encode())]
    for name, value in headers:
        if name in _UPGRADE:
            continue
        if name == b"connection":
            tokens = [token.strip() for token in value.split(b",")]
            value = b", ".join([each for each in tokens if each.lower() not in _UPGRADE])
            if not value:
                continue
        lines.append(b"%b: %b" % (name, value))
    return b"\r\n".join([*lines, b"", b""])
