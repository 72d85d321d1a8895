"""The reconciler: it finishes what is late, and reports what a user moved by hand."""

from dataclasses import dataclass

from fraudops.errors import FraudopsError, StoreDownError
from fraudops.promotion.mirror import AliasMirror
from fraudops.promotion.ports import LockBusyError, PromotionPorts
from fraudops.promotion.protocol import Promoter
from fraudops.promotion.serving_record import ServingRecord, check_writable


@dataclass(frozen=True)
class ReconcileResult:
    """`late` names what could not be written now: `rows`, `alias`.

    `alias` says how the registry differs from the record. `rows` counts the written rows. `busy`
    names the promotion that holds the lock and finishes its own work.
    """

    late: tuple[str, ...] = ()
    alias: str | None = None
    rows: int = 0
    busy: str | None = None


class Reconciler:
    """One run of the reconciler."""

    def __init__(self, ports: PromotionPorts, promoter: Promoter | None = None) -> None:
        self.ports, self.promoter = ports, promoter or Promoter(ports)
        self.mirror = AliasMirror(ports)

    async def run(self, holder: str) -> ReconcileResult:
        """Take the lock and finish late work: a dead promoter's reservation, rows, the alias.

        Raises NewerFormatError, and StoreDownError when the record cannot be read or written.
        """
        try:
            async with self.ports.lock.hold(holder):
                return await self._run(holder)
        except LockBusyError as error:
            return ReconcileResult(busy=error.holder)

    async def _run(self, holder: str) -> ReconcileResult:
        state = await self.ports.records.read()
        check_writable(state[0])
        await self.promoter.clear_abandoned(state, holder)
        rows, late = 0, list[str]()
        try:
            rows = await self.promoter.outcomes.flush()
        except FraudopsError as error:
            self.ports.say(f"rows are late: {error}")
            late.append("rows")
        alias = None
        try:
            late_alias, alias = await self.mirror.reconcile(await self._record())
            late.extend(late_alias)
        except StoreDownError as error:
            self.ports.say(f"the alias cannot be compared: {error}")
            late.append("alias")
        await self._adopt()
        return ReconcileResult(tuple(late), alias, rows)

    async def _adopt(self) -> None:
        if self.ports.adopt is None:
            return
        try:
            await self.ports.adopt()
        except FraudopsError as error:
            # Nothing waits for it, and the next run tries again.
            self.ports.say(f"the record keeps the labels of release 0.2.0: {error}")

    async def _record(self) -> ServingRecord:
        return (await self.ports.records.read())[0]
