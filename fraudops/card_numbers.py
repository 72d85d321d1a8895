"""Card numbers in the ids that clients choose, which must not be kept or logged."""

import re
from hashlib import sha256

# 12 to 19 digits, together or in groups. The characters between them are those that an id may have.
_RUN = re.compile(r"(?<![0-9])[0-9](?:[._:-]?[0-9]){11,18}(?![0-9])")
# A UUID is the usual id of a request, and may hold a long run of digits by chance.
_UUID = re.compile(r"[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")


def may_hold_card_number(text: str) -> bool:
    return _RUN.search(text) is not None and _UUID.fullmatch(text) is None


def short_hash(text: str) -> str:
    """Return 16 digits of the SHA-256: an operator who has the text can find its log lines."""
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def loggable_id(text: str) -> str:
    """Return the id of a request as a log may show it."""
    return f"id:{short_hash(text)}" if may_hold_card_number(text) else text
