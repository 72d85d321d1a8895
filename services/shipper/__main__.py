"""`python -m services.shipper`: ship the spool of the state folder until SIGTERM.

After SIGTERM it drains the spool for a few seconds and exits with 0.

In a cluster the pod's disk is deleted with the pod. The shipper then hands the remaining files
over to other pods, and retries until the pod's grace period ends. A spool on a volume that
outlives pods stays where it is: a shipper of another pod adopts it.
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
from fraudops.audit.dead_letters import DEAD_LETTER_SHARE
from fraudops.audit.shipper_status import ShipperStatus, write_shipper_status
from fraudops.database_url import FILE, read_database_url
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
RETRY_SECONDS, RETRY_DRAIN_SECONDS = 1.0, 3.0
CANCEL_SECONDS = 0.5
NICE = 10


async def serve(settings: ShipperSettings) -> None:
    """Ship the spool until SIGTERM or SIGINT, then drain it.

    Raises SettingsError if DATABASE_URL is not a valid URL, StoreDownError if the volume of the
    spool cannot be used, and FileNotFoundError if the spool's folder disappears.
    """
    state = State.at(settings.state)
    url = settings.database_url.get_secret_value()
    # A wrong URL ends the program here. A wrong file does not: it may be mended, and a shipper that
    # cannot start does not hand the spool over when its pod is deleted.
    if not url.startswith(FILE):
        read_database_url(url)
    stopping, wake = asyncio.Event(), asyncio.Event()
    # With `commit` each answer waits for its row, so shipping must never pause.
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
    if spool is None:  # stopped before the spool was free
        return
    current = ShipperStatus(pid=os.getpid(), at=datetime.now(UTC), phase="starting")
    sink = Sink(url, settings.retention.days)
    maximum = settings.audit.spool_max_bytes
    shipper = Shipper(
        spool, sink, state.spool, current, wake, throttle, maximum // DEAD_LETTER_SHARE
    )
    try:
        _listen(state, wake)
        working = asyncio.create_task(shipper.run(stopping))
        background = [NewerKinds(state.spool, maximum, current).run()]
        if home:
            background.append(OrphanAdoption(home, maximum, current).run())
        await _supervise(
            working,
            sink,
            (_report(state, spool, current, throttle, home), watch_drift(url, state), *background),
            stopping,
        )
        # Other pods and PostgreSQL may return before the grace period ends, so try both again.
        while settings.cluster.release and not home and await _hand_over(settings, spool) > 0:
            await asyncio.sleep(RETRY_SECONDS)
            await _drain(asyncio.create_task(shipper.run(stopping)), sink, RETRY_DRAIN_SECONDS)
        if home:
            home.release()
    except FileNotFoundError:
        # If another pod took this pod's folder, the heartbeat raises the error that says so.
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
    """Open the spool; wait while another shipper, perhaps one that is ending, holds it.

    Returns None if this shipper must stop before the spool is free.
    """
    logged = False
    while not stopping.is_set():
        try:
            return SpoolReader(state.spool)
        except StoreDownError as error:
            if not logged:
                logger.warning("waiting", extra={"reason": str(error)})
            logged = True
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stopping.wait(), REPORT_SECONDS)
    return None


def _stop(stopping: asyncio.Event, wake: asyncio.Event, throttle: Throttle) -> None:
    throttle.hurry()
    stopping.set()
    wake.set()


def _listen(state: State, wake: asyncio.Event) -> None:
    """Let workers that wait for PostgreSQL wake the shipper.

    Without the wake-up pipe the shipper only polls, so those workers wait longer.
    """
    try:
        wakeup = open_wakeup_pipe(state.run)
    except OSError as error:
        logger.error(
            "the wake-up pipe cannot be opened; the shipper polls instead",
            extra={"reason": error.strerror},
        )
        return
    asyncio.get_running_loop().add_reader(wakeup, _woken, wakeup, wake)


def _woken(wakeup: int, wake: asyncio.Event) -> None:
    # One read empties the pipe: several workers may have written to it.
    os.read(wakeup, 1 << 16)
    wake.set()


async def _supervise(
    working: "asyncio.Task[None]",
    sink: Sink,
    background: Iterable[Coroutine[Any, Any, None]],
    stopping: asyncio.Event,
) -> None:
    """Run the tasks until `stopping` is set, then drain.

    If a task fails, stop the others immediately and raise its error.
    """
    tasks = [*map(asyncio.create_task, background), asyncio.create_task(stopping.wait())]
    await asyncio.wait([working, *tasks], return_when=asyncio.FIRST_COMPLETED)
    await _drain(working, sink, DRAIN_SECONDS if stopping.is_set() else 0)
    for task in tasks:
        task.cancel()
    for ended in await asyncio.gather(working, *tasks, return_exceptions=True):
        if isinstance(ended, Exception):
            raise ended


async def _drain(working: "asyncio.Task[None]", sink: Sink, seconds: float) -> None:
    """Wait at most `seconds` for the work to end, then end it by force."""
    await asyncio.wait([working], timeout=seconds)
    # A cancellation alone is not enough: asyncpg handles it only after the server has answered,
    # and a silent connection never answers. The work may also open another connection, so
    # terminate and cancel until it has ended.
    while not working.done():
        sink.give_up()
        working.cancel()
        await asyncio.wait([working], timeout=CANCEL_SECONDS)


async def _hand_over(settings: ShipperSettings, spool: SpoolReader) -> int:
    """Hand the spool over to other pods; return how many files stay here."""
    # An open segment is locked by this process, and the handover needs that lock.
    spool.close_segments()
    return await asyncio.to_thread(hand_over_to_peers, settings)


async def _report(
    state: State,
    spool: SpoolReader,
    current: ShipperStatus,
    throttle: Throttle,
    home: PodDirectory | None,
) -> None:
    """Write the shipper's status every second."""
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
        # Continue: on a full disk only the shipper frees space. The liveness probe and an alert
        # see that the status is old.
        logger.error(
            "the shipper's status file cannot be written", extra={"reason": error.strerror}
        )


def _give_way() -> None:
    """Lower the shipper's priority, so that predictions win the CPU.

    The records that wait are safe in the spool.
    """
    os.nice(NICE)
    # With autogroup (sched(7)) Linux ignores `nice` between sessions and compares the groups.
    # Lower the group only if this process leads the session: another program may share it.
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
