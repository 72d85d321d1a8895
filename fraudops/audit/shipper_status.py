"""What the shipper says of itself, in `run/shipper.json`: written whole each second, read by status
and monitor.
"""

from datetime import UTC, datetime
from pathlib import Path

import msgspec

from fraudops.files import read_json, write_json
from fraudops.state import State

STALE_SECONDS = 5.0


class ShipperStatus(msgspec.Struct, kw_only=True):
    """Counters run since the process began.

    `oldest_at` is when the oldest answer was given that is only in the spool; `abandoned_bytes`
    lie in the folders of dead pods on a volume that outlives them, and `adopted_bytes` came from
    there. `kept_for_newer` counts records of kinds that only a newer release knows.
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

    def stale(self, now: datetime) -> bool:
        """Whether the shipper has not written for so long that it must be dead or hung."""
        return (now - self.at).total_seconds() > STALE_SECONDS


def shipper_path(state: State) -> Path:
    return state.run / "shipper.json"


def write_shipper_status(state: State, current: ShipperStatus) -> None:
    """Raises OSError."""
    current.at = datetime.now(UTC)
    write_json(shipper_path(state), current)


def read_shipper_status(state: State) -> ShipperStatus | None:
    """None when no shipper ever ran here, or another release wrote what we cannot read."""
    return read_json(shipper_path(state), ShipperStatus)
