"""The ids that clients choose: of requests, transactions, entities and sources of labels."""

import re
from typing import Annotated

import msgspec

IDENTIFIER = r"[A-Za-z0-9._:-]{1,64}"

Identifier = Annotated[str, msgspec.Meta(pattern=rf"\A{IDENTIFIER}\Z")]
_IDENTIFIER = re.compile(IDENTIFIER)


def is_identifier(text: str) -> bool:
    """Return whether the text is 1 to 64 characters of the set that IDENTIFIER allows."""
    return _IDENTIFIER.fullmatch(text) is not None
