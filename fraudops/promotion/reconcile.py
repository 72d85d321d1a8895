"""Brings after the serving record what is late, and reports what somebody moved by hand."""

from contextlib import suppress
from dataclasses import dataclass

from fraudops.promotion.convergence import Superseded, sync_alias
from fraudops.promotion.ports import Aliases, Records, StaleRecordError, UnknownWriteError
from fraudops.promotion.serving_record import note_alias


@dataclass(frozen=True)
class ReconcileResult:
    """`late` is what could not be brought now;

    `alias` says that production's alias was moved by hand, and to what.
    """

    late: tuple[str, ...] = ()
    alias: str | None = None
    mirrored: bool = False


async def reconcile(records: Records, aliases: Aliases) -> ReconcileResult:
    """An alias that differs while `mirrored` < `epoch` is late and is written; one that differs
    afterwards is a wish, which is reported.

    The caller holds the promotion lock. Raises StoreDownError when the registry is away although
    nothing is late.
    """
    record, token = await records.read()
    if record.current is None:
        return ReconcileResult()
    if record.alias_epoch < record.epoch:
        try:
            late = await sync_alias(records, aliases, record.epoch)
        except Superseded:
            return ReconcileResult()
        return ReconcileResult(late=late, mirrored=not late)
    alias = await aliases.get("production")
    moved = None if alias == record.current.version else alias_moved(alias, record.current.version)
    if moved != record.alias_moved:
        # For the pods, which show it; a promotion that has written the record meanwhile has set the
        # alias too.
        with suppress(StaleRecordError, UnknownWriteError):
            await records.compare_and_set(note_alias(record, moved), token)
    return ReconcileResult(alias=moved)


def alias_moved(alias: str | None, serving: str) -> str:
    found = f"points at version {alias}" if alias else "is missing"
    remedy = "promote that version, or promote the serving one to set it back"
    return (
        f"the registry's alias production {found}, but version {serving} serves: "
        f"it was moved by hand and is not followed; {remedy}"
    )
