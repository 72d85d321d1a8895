"""Looks once a minute at what the drift runs have found, so that the pod's metrics can say it.

Nothing waits for it.
"""

import asyncio
import logging
from typing import Any

from fraudops.audit.connection import TROUBLE, connect
from fraudops.drift.status import DriftStatus, write_drift_status
from fraudops.state import State

logger = logging.getLogger(__name__)
LOOK_SECONDS, CLOSE_SECONDS = 60.0, 2.0
# A window with too few rows says nothing: the one before it stands.
LATEST = """
SELECT (SELECT max(at) FROM drift_runs) AS last_run, judged.verdict, judged.model_digest AS digest
FROM (SELECT) AS always LEFT JOIN
    (SELECT verdict, model_digest FROM drift_runs WHERE verdict <> 'not enough rows' ORDER BY window_end DESC, at DESC LIMIT 1) AS judged ON true
"""


async def watch_drift(url: str, state: State, pause_seconds: float = LOOK_SECONDS) -> None:
    """While PostgreSQL is away or has no such table, what was seen last stays; the shipper beside
    it says so already.
    """
    while True:
        try:
            await _look(url, state)
        except TROUBLE as error:
            logger.debug("the drift runs were not read", extra={"reason": type(error).__name__})
        await asyncio.sleep(pause_seconds)


async def _look(url: str, state: State) -> None:
    connection: Any = await connect(url, "fraudops-shipper")
    try:
        found = await connection.fetchrow(LATEST, timeout=LOOK_SECONDS)
        await connection.close(timeout=CLOSE_SECONDS)
    finally:
        # Whatever went wrong before: a polite end waits for the answer of a server that may be
        # silent, and the shipper's end waits for us.
        connection.terminate()
    if found["last_run"]:
        write_drift_status(
            state,
            DriftStatus(
                last_run=found["last_run"], verdict=found["verdict"], digest=found["digest"]
            ),
        )
