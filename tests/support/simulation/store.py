"""The Kubernetes API and PostgreSQL of the simulation: record, Lease, pod template, rows."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from fraudops.errors import StoreDownError
from fraudops.promotion.attempt import Attempt, replaces
from fraudops.promotion.ports import LockBusyError, StaleRecordError, UnknownWriteError
from fraudops.promotion.serving_record import (
    EMPTY,
    ServingRecord,
    ServingTarget,
    decode,
    encode,
)
from tests.support.simulation.network import get, put
from tests.support.simulation.world import Actor, SimulatedWorld

API, DATABASE = "the Kubernetes API", "PostgreSQL"
LEASE_SECONDS, RENEW_SECONDS = 15.0, 5.0
# No clock of the weather is wrong by so many seconds, so that no time of day is below zero.
TIME_OF_DAY = 1000.0


@dataclass(frozen=True)
class Lease:
    holder: Actor | None = None
    writes: int = 0


class SimStore:
    """The stored state. The record is kept as bytes, as in the ConfigMap."""

    def __init__(self, world: SimulatedWorld) -> None:
        self.world = world
        self.data, self.record, self.token = b"", EMPTY, 0
        self.lease = Lease()
        self.template: ServingTarget | None = None
        self.rows: dict[str, Attempt] = {}
        self.api_down_until = self.database_down_until = 0.0

    def start_from(self, data: bytes) -> None:
        self.data, self.record = data, decode(data)

    def overwrite(self, record: ServingRecord) -> None:
        """Let a process outside the scenario write the record."""
        self.start_from(encode(record))
        self.token += 1

    def write_record(self, actor: Actor, record: ServingRecord, token: int) -> int:
        if token != self.token:
            raise StaleRecordError("the record has changed")
        data = encode(record)
        before, self.record = self.record, decode(data)
        self.data, self.token = data, self.token + 1
        self.world.checks.on_write(actor, before, self.record)
        return self.token

    def write_template(
        self, actor: Actor, seen: ServingTarget | None, target: ServingTarget | None
    ) -> None:
        if self.template != seen:
            raise StaleRecordError("the pod template has changed")
        self.template = target
        self.world.note(f"{actor.name} sets the annotation to {short(target)}")

    def write_row(self, row: Attempt) -> None:
        """Keep the row as `DatabaseJournal` does."""
        kept = self.rows.get(row.request)
        if kept and not replaces(row, kept):
            return
        self.rows[row.request] = row
        if row.finished_at:
            self.world.checks.reported.add(row.request)


def short(target: ServingTarget | None) -> str:
    return f"epoch {target.epoch}, version {target.version}" if target else "nothing"


class SimRecords:
    def __init__(self, world: SimulatedWorld, actor: Actor) -> None:
        self.world, self.actor = world, actor

    async def read(self) -> tuple[ServingRecord, Any]:
        store = self.world.store
        self.world.checks.on_record_call(self.actor)
        return await get(
            self.world,
            self.actor,
            lambda: (store.record, store.token),
            store.api_down_until,
            API,
        )

    async def compare_and_set(self, record: ServingRecord, token: Any) -> Any:
        store = self.world.store
        self.world.checks.on_record_call(self.actor)
        return await put(
            self.world,
            self.actor,
            lambda: store.write_record(self.actor, record, token),
            store.api_down_until,
            API,
        )


class SimLock:
    """The Lease. Every observer judges by its own clock how long the holder has been silent."""

    def __init__(self, world: SimulatedWorld, actor: Actor, wait_seconds: float = 300.0) -> None:
        self.world, self.actor, self.wait_seconds = world, actor, wait_seconds

    @contextlib.asynccontextmanager
    async def hold(self, holder: str) -> AsyncIterator[None]:
        await self._acquire()
        self.actor.locked_at, self.actor.delayed = self.world.clock, 0.0
        renewal = self.world.spawn(self._renew())
        try:
            yield
        finally:
            renewal.cancel()
            lease = self.world.store.lease
            if self.actor.alive and lease.holder is self.actor:
                self.world.store.lease = Lease(None, lease.writes + 1)

    async def held(self) -> bool:
        await self.world.step(self.actor)
        return not self.actor.lost_lock and self._own_time() < self.actor.lock_until

    def _own_time(self) -> float:
        return self.actor.own_time(self.world.clock)

    async def _acquire(self) -> None:
        end, seen, since = self._own_time() + self.wait_seconds, None, self._own_time()
        while True:
            await self.world.step(self.actor)
            lease = self.world.store.lease
            if lease != seen:
                seen, since = lease, self._own_time()
            silent = self._own_time() - since > LEASE_SECONDS
            free = lease.holder in (None, self.actor) or silent
            if not self.world.rules.only_holders_have_the_lock:
                free = True
            if free and await self._write(lease):
                return
            if self._own_time() > end:
                name = lease.holder.name if lease.holder else "no promoter"
                raise LockBusyError(name)
            await self.world.step(self.actor, 1.0)

    async def _write(self, seen: Lease) -> bool:
        asked = self._own_time()
        await self.world.step(self.actor)
        if self.world.store.lease != seen:
            return False
        self.world.store.lease = Lease(self.actor, seen.writes + 1)
        self.actor.lock_until = asked + LEASE_SECONDS
        return True

    async def _renew(self) -> None:
        while True:
            await self.world.step(self.actor, RENEW_SECONDS / self.actor.rate)
            if self.world.happens("lost renewal", self.actor.name):
                continue
            lease = self.world.store.lease
            if lease.holder is not self.actor:
                self.actor.lost_lock = True
                return
            await self._write(lease)


class SimRollouts:
    def __init__(self, world: SimulatedWorld, actor: Actor) -> None:
        self.world, self.actor = world, actor

    async def annotated(self) -> ServingTarget | None:
        store = self.world.store
        return await get(self.world, self.actor, lambda: store.template, store.api_down_until, API)

    async def annotate(self, target: ServingTarget) -> None:
        await self._write(await self.annotated(), target)

    async def undo(self, epoch: int) -> None:
        seen = await self.annotated()
        if seen and seen.epoch == epoch:
            await self._write(seen, None)

    async def _write(self, seen: ServingTarget | None, target: ServingTarget | None) -> None:
        store = self.world.store
        await put(
            self.world,
            self.actor,
            lambda: store.write_template(self.actor, seen, target),
            store.api_down_until,
            API,
        )


class SimJournal:
    def __init__(self, world: SimulatedWorld, actor: Actor) -> None:
        self.world, self.actor = world, actor

    async def write(self, attempt: Attempt) -> None:
        store = self.world.store
        seen, waits = store.rows.get(attempt.request), True

        def apply() -> None:
            # The transaction of a message whose sender has given up has locked its row. A later
            # write of this row waits for it, so such a message never replaces a later row.
            if waits or store.rows.get(attempt.request) is seen:
                store.write_row(attempt)

        try:
            await put(self.world, self.actor, apply, store.database_down_until, DATABASE)
        except UnknownWriteError as error:
            raise StoreDownError(str(error)) from error
        finally:
            waits = False


class SimClock:
    def __init__(self, world: SimulatedWorld, actor: Actor) -> None:
        self.world, self.actor = world, actor

    def now(self) -> float:
        return self.actor.own_time(self.world.clock)

    def timestamp(self) -> str:
        """Return a text that sorts by the actor's own clock, which may be wrong."""
        return f"2026-01-01T00:00:00Z+{TIME_OF_DAY + self.now():09.3f}"

    async def sleep(self, seconds: float) -> None:
        await self.world.step(self.actor, seconds / self.actor.rate)
