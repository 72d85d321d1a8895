"""The registry's aliases, which mirror the serving record: `production` and `champion`."""

from fraudops.errors import FraudopsError, UnknownVersionError
from fraudops.promotion.changes import way_back
from fraudops.promotion.patience import TRIES, Superseded, change_record
from fraudops.promotion.ports import PromotionPorts
from fraudops.promotion.serving_record import (
    ServingRecord,
    alias_synced,
    note_alias,
)

ALIAS, WAY_BACK = "production", "champion"


class AliasMirror:
    """Writes the aliases that the record names, and finds those that differ."""

    def __init__(self, ports: PromotionPorts) -> None:
        self.ports = ports

    async def sync(self, epoch: int) -> tuple[str, ...]:
        """Write the aliases until they agree with the record, and note that in the record.

        Return `("alias",)` if an alias is late. After a commit no error of the registry or of the
        record's store ends the act, because the reconciler writes the alias later. Raises
        Superseded when the record is no longer at `epoch`.
        """
        try:
            record = await self._write_until_agreed()
        except FraudopsError as error:
            self.ports.say(f"the alias is late: {error}")
            return ("alias",)
        if record is None:
            self.ports.say("the alias is late: the serving record changes too often")
            return ("alias",)
        if record.epoch != epoch:
            raise Superseded
        return ()

    async def _write_until_agreed(self) -> ServingRecord | None:
        """Return the record that the aliases agree with, or None if it changes too often.

        A writer that was paused may write the alias of an old record after a newer one was
        written. The second read of the record finds that.
        """
        record, _ = await self.ports.records.read()
        for _ in range(TRIES):
            await self._write(record)
            note = await self.note(record)
            latest, _ = await self.ports.records.read()
            if latest.epoch == record.epoch:
                return await self._note_synced(latest, note)
            record = latest
            await self.ports.clock.sleep(self.ports.deadlines.pause)
        return None

    async def _note_synced(self, record: ServingRecord, note: str | None) -> ServingRecord:
        def synced(latest: ServingRecord) -> ServingRecord:
            same = latest.epoch == record.epoch
            return alias_synced(latest, note) if same else latest

        return await change_record(self.ports, synced)

    async def _write(self, record: ServingRecord) -> None:
        """Set each alias, or drop the alias of a version that no longer exists."""
        back = way_back(record)
        for alias, entry in ((ALIAS, record.current), (WAY_BACK, back)):
            try:
                if entry:
                    await self.ports.aliases.set(alias, entry.version)
                    continue
            except UnknownVersionError as error:
                self.ports.say(f"alias {alias} is dropped: {error}")
            await self.ports.aliases.drop(alias)

    async def note(self, record: ServingRecord) -> str | None:
        """Return how the registry differs from the record, or None when they agree."""
        current, back = record.current, way_back(record)
        if current is None:
            return None
        found = await self.ports.aliases.get(ALIAS)
        if found != current.version:
            if await self.ports.aliases.exists(current.version):
                return alias_moved(found, current.version)
            return (
                f"version {current.version}, which serves, is no longer in the registry: "
                f"it has no alias {ALIAS}; pods serve it from their caches, so promote another "
                "version before they lose them"
            )
        if back and (found := await self.ports.aliases.get(WAY_BACK)) != back.version:
            # The registry drops the alias of a version together with the version.
            if await self.ports.aliases.exists(back.version):
                return way_back_moved(found, back.version)
            return (
                f"version {back.version}, the way back, is no longer in the registry: "
                "a rollback works only while pods have its bundle in their caches"
            )
        return None

    async def reconcile(self, record: ServingRecord) -> tuple[tuple[str, ...], str | None]:
        """Write a late alias; report one that differs from a record that was mirrored.

        Return what is still late, and the note. Raises StoreDownError while the registry does not
        answer and nothing is late.
        """
        if record.current is None:
            return (), None
        if record.alias_epoch < record.epoch:
            try:
                late = await self.sync(record.epoch)
            except Superseded:
                return (), None
            latest, _ = await self.ports.records.read()
            return late, None if late else latest.alias_note
        note = await self.note(record)
        if note != record.alias_note:
            await self._keep_note(record.epoch, note)
        return (), note

    async def _keep_note(self, epoch: int, note: str | None) -> None:
        """Write the note for the pods, which show it."""

        def noted(latest: ServingRecord) -> ServingRecord:
            return note_alias(latest, note) if latest.epoch == epoch else latest

        try:
            await change_record(self.ports, noted)
        except FraudopsError as error:
            self.ports.say(f"pods do not show the note about the alias yet: {error}")


def alias_moved(alias: str | None, serving: str) -> str:
    """Return the note about an alias that a user has moved."""
    found = f"points at version {alias}" if alias else "is missing"
    return (
        f"the registry's alias {ALIAS} {found}, but version {serving} serves: "
        "it was moved by hand and is not followed; promote that version, or promote the "
        "serving one to set it back"
    )


def way_back_moved(alias: str | None, back: str) -> str:
    """Return the note about an alias of the way back that differs from the record."""
    found = f"points at version {alias}" if alias else "is missing"
    return (
        f"the registry's alias {WAY_BACK} {found}, but `fraudops rollback` goes to version {back}: "
        "the alias was moved by hand and is not followed; the next promotion sets it back"
    )
