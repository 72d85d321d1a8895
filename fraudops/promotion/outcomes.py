"""The rows of acts: in PostgreSQL, or in the serving record until PostgreSQL has them."""

from collections.abc import Callable

import msgspec

from fraudops.errors import FraudopsError, StoreDownError
from fraudops.promotion.attempt import UNCOMMITTED, Attempt, Outcome, Strategy, replaces
from fraudops.promotion.patience import change_record
from fraudops.promotion.ports import PromotionPorts
from fraudops.promotion.serving_record import (
    ModelRef,
    Reservation,
    ServingRecord,
    drop_outcomes,
    keep_outcome,
)


class Outcomes:
    """Writes the row of every act, and keeps in the record what cannot be written yet."""

    def __init__(self, ports: PromotionPorts) -> None:
        self.ports = ports

    async def started(self, attempt: Attempt) -> None:
        """Write the row `started`. Without PostgreSQL the outcome's row has the same fields."""
        try:
            await self.ports.journal.write(attempt)
        except StoreDownError as error:
            self.ports.say(f"the row in promotions is written later: {error}")

    async def ended(self, attempt: Attempt) -> tuple[str, ...]:
        """Write the row of an outcome, and return `("row",)` if the record keeps it for later.

        The provisional row of a commit is replaced first. A promoter that dies between the two
        writes has then reported its outcome, so its next try does not undo the act.

        Raises StoreDownError when the outcome cannot be stored.
        """
        attempt = msgspec.structs.replace(attempt, finished_at=self.ports.clock.timestamp())
        await self._report(attempt)
        try:
            await self.ports.journal.write(attempt)
        except StoreDownError as error:
            self.ports.say(f"the serving record keeps the row for promotions: {error}")
            await self._change(attempt, lambda record: _reported(record, attempt))
            return ("row",)
        await self._forget(attempt)
        return ()

    async def _report(self, attempt: Attempt) -> None:
        """Replace the request's row in the record, if the record has one."""

        def reported(record: ServingRecord) -> ServingRecord:
            return _reported(record, attempt) if _kept(record, attempt.request) else record

        try:
            await self._change(attempt, reported)
        except StoreDownError:
            # These acts have committed nothing, so the record has no row that matters.
            if attempt.outcome not in UNCOMMITTED:
                raise

    async def _change(
        self, attempt: Attempt, change: Callable[[ServingRecord], ServingRecord]
    ) -> None:
        try:
            await change_record(self.ports, change)
        except FraudopsError as error:
            raise StoreDownError(
                f"the act ended as {attempt.outcome}, but the serving record cannot store that: "
                f"{error}. The next try of the Job, or the reconciler, finishes it"
            ) from error

    async def _forget(self, attempt: Attempt) -> None:
        """Remove the row from the record, now that PostgreSQL has it or a later one.

        A row that another try of the request has written since stays.
        """

        def without(record: ServingRecord) -> ServingRecord:
            row = _kept(record, attempt.request)
            if row is None or (row != attempt and not replaces(attempt, row)):
                return record
            return drop_outcomes(record, (row,))

        try:
            await change_record(self.ports, without)
        except FraudopsError as error:
            self.ports.say(f"the reconciler writes the row once more: {error}")

    async def flush(self) -> int:
        """Write the rows that the record keeps, and return their number.

        A row that PostgreSQL refuses does not stop the others. Raises StoreDownError when a row is
        still late.
        """
        record, _ = await self.ports.records.read()
        written, late = list[Attempt](), None
        for row in record.unwritten:
            try:
                await self.ports.journal.write(row)
            except StoreDownError as error:
                late = error
            else:
                written.append(row)
        if written:
            await change_record(self.ports, lambda latest: drop_outcomes(latest, tuple(written)))
        if late:
            raise late
        return len(written)


def _kept(record: ServingRecord, request: str) -> Attempt | None:
    return next((row for row in record.unwritten if row.request == request), None)


def _reported(record: ServingRecord, attempt: Attempt) -> ServingRecord:
    """Return the record with the row, unless it has a later one of the request."""
    row = _kept(record, attempt.request)
    return record if row and not replaces(attempt, row) else keep_outcome(record, attempt)


def with_abandoned(record: ServingRecord, reserved: Reservation) -> ServingRecord:
    """Return the record with the row of a promoter that ended before its commit.

    The row is provisional: the outcome of a later try of the request replaces it. An outcome that
    the promoter has reported stays.
    """
    if any(row.request == reserved.by and row.finished_at for row in record.unwritten):
        return record
    row = Attempt(
        request=reserved.by,
        requested_by=reserved.requested_by,
        at=reserved.at,
        act=reserved.act,
        strategy=reserved.strategy,
        version=reserved.version,
        digest=reserved.digest,
        from_version=record.current.version if record.current else None,
        epoch=reserved.epoch,
        outcome="refused",
        reason="its promoter ended before the commit: nothing has changed",
        signer=reserved.signer,
    )
    return keep_outcome(record, row)


def with_model(attempt: Attempt, model: ModelRef, strategy: Strategy | str) -> Attempt:
    """Return the attempt with the model that its gate has chosen."""
    return msgspec.structs.replace(
        attempt,
        version=model.version,
        digest=model.digest,
        strategy=strategy,
        waiver_reason=str(model.waiver.get("reason")) if model.waiver else None,
        signer=model.signer,
    )


def with_outcome(attempt: Attempt, outcome: Outcome, reason: str) -> Attempt:
    return msgspec.structs.replace(attempt, outcome=outcome, reason=reason)


def of_earlier_try(attempt: Attempt, record: ServingRecord) -> Attempt:
    """Return the attempt with what an earlier try of its request has committed.

    The record's entry is that of the request. After an undo it names the version from before, so
    the kept row says more.
    """
    current, previous = record.current, record.previous
    assert current is not None
    if current.act == "undo":
        return _kept(record, attempt.request) or attempt
    return msgspec.structs.replace(
        with_model(attempt, current, current.strategy),
        from_version=previous.version if previous else None,
        epoch=current.epoch,
    )
