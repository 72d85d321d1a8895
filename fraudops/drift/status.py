"""The file `run/drift.json`: the result of the latest drift run, for the pod's metrics.

The authoritative rows are in the table `drift_runs`. In a pod only the shipper has access to
PostgreSQL, so it copies the latest result to this file.
"""

from datetime import datetime
from pathlib import Path

import msgspec

from fraudops.files import read_json, write_json
from fraudops.state import State


class DriftStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The time of the latest run, and the verdict and model digest of the latest judged window.

    `verdict` and `digest` are None until a window was judged.
    """

    last_run: datetime
    verdict: str | None = None
    digest: str | None = None

    def alarms(self, digest: str | None) -> bool:
        """Return True if there is an alarm for the model with this digest.

        An alarm about an earlier model does not count after a promotion.
        """
        return self.verdict == "alarm" and self.digest == digest


def drift_status_path(state: State) -> Path:
    return state.run / "drift.json"


def write_drift_status(state: State, drift_status: DriftStatus) -> None:
    """Replace the file atomically. Raises OSError."""
    write_json(drift_status_path(state), drift_status)


def read_drift_status(state: State) -> DriftStatus | None:
    """Read the file; return None before the first run, or if this release cannot read it."""
    return read_json(drift_status_path(state), DriftStatus)
