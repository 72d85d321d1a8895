"""Sets of prediction ids, held as sorted arrays of 16 bytes each.

A million ids take 16 MB.
"""

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from fraudops.ids import timestamp_ms

# Shape (n,), dtype S16, sorted and distinct.
Ids = NDArray[np.bytes_]
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def id_array(values: Iterable[bytes]) -> Ids:
    """Return the distinct ids, sorted. Each value holds one id of 16 bytes, or several."""
    return np.unique(np.frombuffer(b"".join(values), dtype="S16"))


def id_bytes(identifier: str) -> bytes:
    """Return the 16 bytes of a canonical UUIDv7. Raises ValueError for anything else."""
    timestamp_ms(identifier)
    return UUID(identifier).bytes


def element_bytes(value: Any) -> bytes:
    """Return the 16 bytes of an array's element."""
    # numpy drops trailing zero bytes, because it takes them for padding.
    return bytes(value).ljust(16, b"\0")


def timestamps(ids: Ids) -> list[datetime]:
    """Return the time inside each id, to the millisecond, in UTC."""
    return [
        EPOCH + timedelta(milliseconds=int.from_bytes(element_bytes(value)[:6], "big"))
        for value in ids
    ]


def without(ids: Ids, *others: Ids) -> Ids:
    """Return the ids that are in none of the other sets."""
    for other in others:
        ids = np.setdiff1d(ids, other, assume_unique=True)
    return ids
