"""Reads the result of the latest drift run once a minute, for the pod's metrics."""

import asyncio
import logging
from typing import Any

from fraudops.audit.connection import TROUBLE, connect
from fraudops.drift.status import DriftStatus, write_drift_status
from fraudops.errors import SettingsError
from fraudops.state import State

logger = logging.getLogger(__name__)
LOOK_SECONDS, CLOSE_SECONDS = 60.0, 2.0
# A window with too few rows has no verdict, so the verdict of an earlier window stays valid.
LATEST = """
SELECT (SELECT max(at) FROM drift_runs) AS last_run, judged.verdict, judged.model_digest AS digest
FROM (SELECT) AS always LEFT JOIN
    (SELECT verdict, model_digest FROM drift_runs WHERE verdict <> 'not enough rows'
     ORDER BY window_end DESC, at DESC LIMIT 1) AS judged ON true
"""


async def watch_drift(url: str, state: State, pause_seconds: float = LOOK_SECONDS) -> None:
    """Read the drift runs until cancelled.

    While PostgreSQL is down or has no such table, the last result stays. The log line is only for
    debugging, because the shipper logs the same outage.
    """
    while True:
        try:
            await _look(url, state)
        except (SettingsError, *TROUBLE) as error:
            logger.debug("the drift runs cannot be read", extra={"reason": type(error).__name__})
        await asyncio.sleep(pause_seconds)


async def _look(url: str, state: State) -> None:
    connection: Any = await connect(url, "fraudops-shipper")
    try:
        row = await connection.fetchrow(LATEST, timeout=LOOK_SECONDS)
        await connection.close(timeout=CLOSE_SECONDS)
    finally:
        # `close` waits for a server that may not answer, and the shipper's exit waits for this.
        connection.terminate()
    if row["last_run"]:
        write_drift_status(
            state,
            DriftStatus(last_run=row["last_run"], verdict=row["verdict"], digest=row["digest"]),
        )
