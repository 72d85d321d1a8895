"""The shipper's status in `run/shipper.json`.

The shipper replaces the file every second. `fraudops status`, `fraudops monitor` and the service
read it.
"""

from datetime import UTC, datetime
from pathlib import Path

import msgspec

from fraudops.files import read_json, write_json
from fraudops.state import State

STALE_SECONDS = 5.0


class ShipperStatus(msgspec.Struct, kw_only=True):
    """The state of the shipper. Counters start at 0 when the process starts.

    `phase` is `starting`, `shipping`, `waiting`, `refused` or `stopped`. `refused` means that
    PostgreSQL refuses every row, and `fault` says with which SQLSTATE, constraint and table.
    `last_error` is a sentence about `waiting` and `refused`. The shipper writes no more dead
    letters once they have `aside_limit_bytes`.
    `oldest_at` is the time of the oldest answer that is only in the spool. `abandoned_bytes` are in
    the folders of dead pods on the spool's volume, and `adopted_bytes` were taken from there.
    `set_aside` counts dead letters. `kept_for_newer` counts records of kinds that only a newer
    release knows.
    """

    pid: int
    at: datetime
    phase: str = msgspec.field(name="doing")
    backlog_bytes: int = 0
    backlog_segments: int = 0
    backlog_rows: int = 0
    oldest_at: datetime | None = None
    shipped: int = 0
    replayed: int = 0
    set_aside: int = 0
    kept_for_newer: int = 0
    missing: int = 0
    abandoned_bytes: int = 0
    adopted_bytes: int = 0
    last_error: str | None = None
    fault: str | None = None
    aside_limit_bytes: int = 0

    def stale(self, now: datetime) -> bool:
        """Return whether the status is so old that the shipper must be dead or hung."""
        return (now - self.at).total_seconds() > STALE_SECONDS


def shipper_path(state: State) -> Path:
    return state.run / "shipper.json"


def write_shipper_status(state: State, current: ShipperStatus) -> None:
    """Write the status with the current time. Raises OSError."""
    current.at = datetime.now(UTC)
    write_json(shipper_path(state), current)


def read_shipper_status(state: State) -> ShipperStatus | None:
    """Read the status; None if no shipper has run here, or the file has another form."""
    return read_json(shipper_path(state), ShipperStatus)
