"""Media types and encodings of request bodies."""

import re

JSON = (b"content-type", b"application/json")
_JSON_TYPE = re.compile(rb"application/(?:[a-z0-9!#$&^_.-]+\+)?json", re.IGNORECASE)


def is_json(content_type: bytes) -> bool:
    """Return whether it is `application/json` or `application/*+json`, with any parameters."""
    if content_type == JSON[1]:
        return True
    return _JSON_TYPE.fullmatch(content_type.partition(b";")[0].strip()) is not None


def is_encoded(content_encoding: bytes) -> bool:
    """Return whether the body is compressed or has another encoding."""
    return content_encoding.strip().lower() not in (b"", b"identity")
