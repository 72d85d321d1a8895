"""`python -m services.shipper`: ships the spool of the state folder until SIGTERM, then what it
still can, and exits 0.

In a cluster the pod's disk goes with the pod: what is left then is handed over to other pods,
again and again until the pod's grace period ends. A spool on a volume that outlives pods stays
where it is, for the next pod to take.
"""

import asyncio
import contextlib
import logging
import os
import signal
import sys
from collections.abc import Coroutine, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvloop

from fraudops import logs
from fraudops.audit.connection import dsn
from fraudops.audit.shipper_status import ShipperStatus, write_shipper_status
from fraudops.errors import FraudopsError, StoreDownError
from fraudops.settings import ShipperSettings
from fraudops.spool.reader import SpoolReader
from fraudops.spool.volume import PodDirectory, claim
from fraudops.spool.wakeup import open_wakeup_pipe
from fraudops.state import State
from services.shipper.handover import hand_over_to_peers
from services.shipper.newer_kinds import NewerKinds
from services.shipper.orphan_adoption import OrphanAdoption
from services.shipper.shipping import Shipper
from services.shipper.sink import Sink
from services.shipper.throttle import HURRIED_BYTES, Throttle
from services.shipper.watching import watch_drift

logger = logging.getLogger(__name__)
REPORT_SECONDS = 1.0
DRAIN_SECONDS = 5.0
AGAIN_SECONDS, AGAIN_DRAIN_SECONDS = 1.0, 3.0
CANCEL_SECONDS = 0.5
NICE = 10


async def serve(settings: ShipperSettings) -> None:
    """Raises SettingsError for a DATABASE_URL that is none."""
    state = State.at(settings.state)
    url = dsn(settings.database_url.get_secret_value())
    stopping, wake = asyncio.Event(), asyncio.Event()
    # With `commit` the answers wait for us.
    throttle = Throttle(
        0
        if settings.audit.durability == "commit"
        else min(HURRIED_BYTES, settings.audit.spool_max_bytes // 8)
    )
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _stop, stopping, wake, throttle)
    state.run.mkdir(mode=0o700, parents=True, exist_ok=True)
    home = (
        claim(settings.spool_volume, settings.pod, state.spool) if settings.spool_volume else None
    )
    spool = await _open_spool(state, stopping)
    if spool is None:
        return
    current = ShipperStatus(pid=os.getpid(), at=datetime.now(UTC), phase="starting")
    sink = Sink(url, settings.retention.days)
    shipper = Shipper(spool, sink, state.spool, current, wake, throttle)
    try:
        _listen(state, wake)
        working = asyncio.create_task(shipper.run(stopping))
        maximum = settings.audit.spool_max_bytes
        background = [NewerKinds(state.spool, maximum, current).run()]
        if home:
            background.append(OrphanAdoption(home, maximum, current).run())
        await _supervise(
            working,
            sink,
            (_report(state, spool, current, throttle, home), watch_drift(url, state), *background),
            stopping,
        )
        while settings.cluster.release and not home and await _hand_over(settings, spool) > 0:
            await asyncio.sleep(AGAIN_SECONDS)
            await _drain(asyncio.create_task(shipper.run(stopping)), sink, AGAIN_DRAIN_SECONDS)
        if home:
            home.release()
    except FileNotFoundError:
        if home:
            home.heartbeat()
        raise
    finally:
        await sink.close()
        current.phase = "stopped"
        _write(state, spool, current)
        spool.close()
    logger.info("stopped", extra={"left_bytes": current.backlog_bytes, "shipped": current.shipped})


async def _open_spool(state: State, stopping: asyncio.Event) -> SpoolReader | None:
    """Waits while another shipper, perhaps one on its way out, holds the folder;

    None when told to stop meanwhile.
    """
    said = False
    while not stopping.is_set():
        try:
            return SpoolReader(state.spool)
        except StoreDownError as error:
            if not said:
                logger.warning("waiting", extra={"reason": str(error)})
            said = True
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), REPORT_SECONDS)
    return None


def _stop(stopping: asyncio.Event, wake: asyncio.Event, throttle: Throttle) -> None:
    throttle.hurry()
    stopping.set()
    wake.set()


def _listen(state: State, wake: asyncio.Event) -> None:
    """From now on a worker that waits for PostgreSQL wakes us; where no bell can be hung the
    shipper looks by itself, only later.
    """
    try:
        wakeup = open_wakeup_pipe(state.run)
    except OSError as error:
        logger.error("no bell wakes the shipper", extra={"reason": error.strerror})
        return

    def rung() -> None:
        os.read(wakeup, 1 << 16)
        wake.set()

    asyncio.get_running_loop().add_reader(wakeup, rung)


async def _supervise(
    working: "asyncio.Task[None]",
    sink: Sink,
    beside: Iterable[Coroutine[Any, Any, None]],
    stopping: asyncio.Event,
) -> None:
    """Until stopped, then as long as the drain may take; ends at once when one of them fails, with
    its error.
    """
    tasks = [*map(asyncio.create_task, beside), asyncio.create_task(stopping.wait())]
    await asyncio.wait([working, *tasks], return_when=asyncio.FIRST_COMPLETED)
    await _drain(working, sink, DRAIN_SECONDS if stopping.is_set() else 0)
    for task in tasks:
        task.cancel()
    for ended in await asyncio.gather(working, *tasks, return_exceptions=True):
        if isinstance(ended, Exception):
            raise ended


async def _drain(working: "asyncio.Task[None]", sink: Sink, seconds: float) -> None:
    """As long as it may take, and no longer: a connection that went silent, or its end, would keep
    the work from hearing that it is cancelled.
    """
    await asyncio.wait([working], timeout=seconds)
    while not working.done():
        sink.give_up()
        working.cancel()
        await asyncio.wait([working], timeout=CANCEL_SECONDS)


async def _hand_over(settings: ShipperSettings, spool: SpoolReader) -> int:
    """How many files stay here."""
    spool.close_segments()
    return await asyncio.to_thread(hand_over_to_peers, settings)


async def _report(
    state: State,
    spool: SpoolReader,
    current: ShipperStatus,
    throttle: Throttle,
    home: PodDirectory | None,
) -> None:
    while True:
        if home:
            home.heartbeat()
        _write(state, spool, current)
        throttle.look(current)
        await asyncio.sleep(REPORT_SECONDS)


def _write(state: State, spool: SpoolReader, current: ShipperStatus) -> None:
    try:
        backlog = spool.backlog()
        current.backlog_bytes, current.backlog_segments, current.backlog_rows = (
            backlog.bytes,
            backlog.segments,
            backlog.rows,
        )
        write_shipper_status(state, current)
    except OSError as error:
        # On a full disk it is the shipper that makes room. Its silence is seen: by the probe and by
        # an alert.
        logger.error("the shipper cannot say how it is", extra={"reason": error.strerror})


def _give_way() -> None:
    """Where they share processors, answers come before their way to PostgreSQL: what waits
    meanwhile is in the spool. Linux weighs whole sessions first (sched(7), autogroup); this
    one's is only lowered when it is the shipper's own.
    """
    os.nice(NICE)
    if os.getsid(0) == os.getpid():
        with contextlib.suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(NICE))


def main() -> None:
    try:
        settings = ShipperSettings.from_environment()
        logs.configure(settings.log_level, "shipper")
        _give_way()
        uvloop.run(serve(settings))
    except FraudopsError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
