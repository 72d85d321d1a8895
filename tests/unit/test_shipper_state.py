"""`fraudops status` shows that PostgreSQL refuses every row, and which constraint refuses it."""

import os
from datetime import UTC, datetime
from pathlib import Path

import pytest

from fraudops.audit.shipper_status import ShipperStatus, write_shipper_status
from fraudops.state import State
from services.shipper.circuit_breaker import DatabaseRefusesError, RowFault
from services.supervisor.display import status_details
from services.supervisor.processes import Handle
from services.supervisor.record import ComponentRecord, Record, save
from services.supervisor.status import report

FAULT = RowFault("predictions", "23514", "constraint no_v3")


@pytest.mark.parametrize(
    ("phase", "shown"),
    [("refused", "failing"), ("waiting", "running"), ("shipping", "running")],
)
def test_a_shipper_whose_rows_are_all_refused_is_shown_as_failing(
    tmp_path: Path, phase: str, shown: str
) -> None:
    state = State.at(tmp_path)
    own = Handle.of(os.getpid())
    shipper = ComponentRecord(phase="running", process=own)
    save(state, Record(supervisor=own, components={"shipper": shipper}))
    words = str(DatabaseRefusesError(FAULT))
    state.run.mkdir(parents=True, exist_ok=True)
    write_shipper_status(
        state,
        ShipperStatus(pid=os.getpid(), at=datetime.now(UTC), phase=phase, last_error=words),
    )
    shown_report = report(state)
    assert (shown_report["shipper"]["state"], shown_report["shipper"]["doing"]) == (shown, phase)
    assert f"shipper: {words}" in status_details(shown_report)
