"""Options of a spool writer."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class SpoolOptions:
    """Options for syncing a spool and for its size.

    `fsync`: `always` syncs before an append returns, `interval` every `fsync_interval_ms`, and
    `never` leaves it to the kernel.
    """

    fsync: Literal["always", "interval", "never"] = "interval"
    fsync_interval_ms: int = 100
    # The limit holds for the segments of all writers of a folder, its dead letters, and its records
    # for a newer release.
    max_bytes: int = 1 << 30
    segment_bytes: int = 64 << 20
