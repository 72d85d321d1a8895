"""What the latest drift run found, as the shipper last read it from PostgreSQL: `run/drift.json`,
which the pod's metrics are made of.

The rows of `drift_runs` are the truth; of a pod only its shipper has PostgreSQL.
"""

from datetime import datetime
from pathlib import Path

import msgspec

from fraudops.files import read_json, write_json
from fraudops.state import State


class DriftStatus(msgspec.Struct, frozen=True, kw_only=True):
    """`verdict` and `digest` are those of the latest window that could be judged, None before one
    was; `last_run` is of any run.
    """

    last_run: datetime
    verdict: str | None = None
    digest: str | None = None

    def alarms(self, digest: str | None) -> bool:
        """Whether the alarm is about the model that serves: another one begins anew."""
        return self.verdict == "alarm" and self.digest == digest


def drift_status_path(state: State) -> Path:
    return state.run / "drift.json"


def write_drift_status(state: State, drift_status: DriftStatus) -> None:
    """Raises OSError."""
    write_json(drift_status_path(state), drift_status)


def read_drift_status(state: State) -> DriftStatus | None:
    """None before the first run, or when another release wrote what we cannot read."""
    return read_json(drift_status_path(state), DriftStatus)
