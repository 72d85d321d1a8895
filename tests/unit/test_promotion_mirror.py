"""The registry's aliases follow the serving record, whatever else happens to both."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest

from fraudops.errors import StoreDownError
from fraudops.promotion.mirror import AliasMirror
from fraudops.promotion.patience import Superseded
from fraudops.promotion.ports import Aliases, PromotionPorts, Records
from fraudops.promotion.serving_record import EMPTY, ServingRecord
from tests.support.simulation.founding import entry_of
from tests.support.simulation.jobs import ports_of
from tests.support.simulation.stage import FOR_EVER, Stage, on_stage
from tests.support.simulation.world import Actor

RIGHT = {"production": "1", "champion": "2"}


def ports(stage: Stage, **changed: Any) -> PromotionPorts:
    return replace(ports_of(stage.world, Actor("act")), **changed)


def promote(stage: Stage, version: str) -> None:
    """Let another act promote the version."""
    current = stage.record.current
    assert current is not None
    stage.change(
        current=entry_of(version, current.epoch + 1),
        previous=current,
        stack=(current, *stage.record.stack),
    )


@dataclass
class WatchedAliases:
    """Aliases that let something happen after each write of `production`."""

    aliases: Aliases
    after: Callable[[], None]

    def __getattr__(self, name: str) -> Any:
        return getattr(self.aliases, name)

    async def set(self, alias: str, version: str) -> None:
        await self.aliases.set(alias, version)
        if alias == "production":
            self.after()


@dataclass
class WatchedRecords:
    """Records that let something happen before the read of a number."""

    records: Records
    number: int
    before: Callable[[], None]
    reads: int = 0

    async def read(self) -> tuple[ServingRecord, Any]:
        self.reads += 1
        if self.reads == self.number:
            self.before()
        return await self.records.read()

    async def compare_and_set(self, record: ServingRecord, token: Any) -> Any:
        return await self.records.compare_and_set(record, token)


@dataclass
class ReadOnlyRecords:
    records: Records

    async def read(self) -> tuple[ServingRecord, Any]:
        return await self.records.read()

    async def compare_and_set(self, record: ServingRecord, token: Any) -> Any:
        raise StoreDownError("the store takes no writes")


@on_stage(pods=0)
async def test_both_aliases_follow_the_record_and_the_record_says_so(stage: Stage) -> None:
    stage.change(alias_epoch=0, alias_note="an old note")
    stage.world.registry.aliases = {"production": "3", "champion": "3"}
    assert await AliasMirror(ports(stage)).sync(2) == ()
    assert stage.world.registry.aliases == RIGHT
    assert (stage.record.alias_epoch, stage.record.alias_note) == (2, None)


@on_stage(pods=0)
async def test_a_record_without_a_way_back_has_no_champion(stage: Stage) -> None:
    stage.change(stack=(), previous=None)
    assert await AliasMirror(ports(stage)).sync(2) == ()
    assert stage.world.registry.aliases == {"production": "1"}
    assert stage.record.alias_note is None


@on_stage(pods=0)
async def test_the_aliases_of_deleted_versions_are_dropped(stage: Stage) -> None:
    stage.world.registry.delete("1")
    stage.world.registry.delete("2")
    stage.world.registry.aliases = {"production": "3", "champion": "3"}
    assert await AliasMirror(ports(stage)).sync(2) == ()
    assert stage.world.registry.aliases == {}
    assert "version 1" in str(stage.record.alias_note)


@on_stage(pods=0)
async def test_an_act_whose_record_has_moved_on_is_superseded(stage: Stage) -> None:
    promote(stage, "3")
    with pytest.raises(Superseded):
        await AliasMirror(ports(stage)).sync(2)
    assert stage.world.registry.aliases == {"production": "3", "champion": "1"}


@on_stage(pods=0)
async def test_a_registry_that_does_not_answer_makes_the_alias_late(stage: Stage) -> None:
    stage.change(alias_epoch=1)
    stage.world.registry.down_until = FOR_EVER
    assert await AliasMirror(ports(stage)).sync(2) == ("alias",)
    assert stage.record.alias_epoch == 1


@on_stage(pods=0)
async def test_a_writer_overtaken_between_read_and_write_writes_the_newer_alias(
    stage: Stage,
) -> None:
    moves = iter(["3"])

    def move() -> None:
        for version in moves:
            promote(stage, version)

    calm = ports(stage)
    mirror = AliasMirror(ports(stage, aliases=WatchedAliases(calm.aliases, move)))
    before = stage.world.clock
    with pytest.raises(Superseded):
        await mirror.sync(2)
    assert stage.world.registry.aliases == {"production": "3", "champion": "1"}
    assert stage.record.alias_epoch == 3
    assert stage.world.clock > before + calm.deadlines.pause


@on_stage(pods=0)
async def test_a_record_that_always_moves_makes_the_alias_late(stage: Stage) -> None:
    writes = []

    def move() -> None:
        writes.append(stage.record.epoch)
        # A mirror without a bound never ends.
        assert len(writes) < 20
        promote(stage, "3" if len(writes) % 2 else "1")

    mirror = AliasMirror(ports(stage, aliases=WatchedAliases(ports(stage).aliases, move)))
    assert await mirror.sync(2) == ("alias",)
    assert stage.record.alias_epoch == 2


@on_stage(pods=0)
async def test_the_aliases_of_one_epoch_are_not_noted_at_a_later_one(stage: Stage) -> None:
    """The record moves after the aliases were compared, and before that is noted."""
    stage.change(alias_epoch=0)
    records = WatchedRecords(ports(stage).records, 3, lambda: promote(stage, "3"))
    with pytest.raises(Superseded):
        await AliasMirror(ports(stage, records=records)).sync(2)
    assert (stage.record.epoch, stage.record.alias_epoch) == (3, 0)


@pytest.mark.parametrize(
    ("aliases", "deleted", "facts"),
    [
        (RIGHT, "", ()),
        ({"production": "3", "champion": "2"}, "", ("production points at version 3", "version 1")),
        ({"champion": "2"}, "", ("production is missing", "version 1 serves")),
        ({"champion": "2"}, "1", ("version 1, which serves, is no longer", "alias production")),
        ({"production": "1", "champion": "3"}, "", ("champion points at version 3", "version 2")),
        ({"production": "1"}, "", ("champion is missing", "goes to version 2")),
        ({"production": "1"}, "2", ("version 2, the way back, is no longer",)),
    ],
)
def test_the_note_says_how_the_registry_differs(
    aliases: dict[str, str], deleted: str, facts: tuple[str, ...]
) -> None:
    @on_stage(pods=0)
    async def play(stage: Stage) -> None:
        stage.world.registry.delete(deleted)
        stage.world.registry.aliases = dict(aliases)
        note = await AliasMirror(ports(stage)).note(stage.record)
        assert (note is None) == (not facts)
        assert [fact for fact in facts if fact not in str(note)] == []

    play()


@on_stage(pods=0)
async def test_before_the_first_promotion_the_registry_may_have_any_alias(stage: Stage) -> None:
    mirror = AliasMirror(ports(stage))
    assert await mirror.note(EMPTY) is None
    assert await mirror.reconcile(EMPTY) == ((), None)


@on_stage(pods=0)
async def test_a_first_promotion_has_no_way_back_to_compare(stage: Stage) -> None:
    stage.change(stack=())
    assert await AliasMirror(ports(stage)).note(stage.record) is None


# -- the reconciler


@on_stage(pods=0)
async def test_the_reconciler_writes_a_late_alias(stage: Stage) -> None:
    stage.change(alias_epoch=1)
    stage.world.registry.aliases = {}
    assert await AliasMirror(ports(stage)).reconcile(stage.record) == ((), None)
    assert stage.world.registry.aliases == RIGHT
    assert stage.record.alias_epoch == 2


@on_stage(pods=0)
async def test_the_reconciler_returns_what_is_wrong_with_a_late_alias(stage: Stage) -> None:
    stage.change(alias_epoch=1)
    stage.world.registry.delete("2")
    late, note = await AliasMirror(ports(stage)).reconcile(stage.record)
    assert (late, note) == ((), stage.record.alias_note)
    assert "version 2, the way back" in str(note)


@on_stage(pods=0)
async def test_an_alias_stays_late_while_the_registry_does_not_answer(stage: Stage) -> None:
    stage.change(alias_epoch=1, alias_note="of an earlier epoch")
    stage.world.registry.down_until = FOR_EVER
    assert await AliasMirror(ports(stage)).reconcile(stage.record) == (("alias",), None)


@on_stage(pods=0)
async def test_a_later_act_writes_the_alias_that_the_reconciler_finds_late(stage: Stage) -> None:
    stage.change(alias_epoch=1)
    seen = stage.record
    promote(stage, "3")
    assert await AliasMirror(ports(stage)).reconcile(seen) == ((), None)


@on_stage(pods=0)
async def test_an_alias_moved_by_hand_is_reported_and_not_followed(stage: Stage) -> None:
    stage.world.registry.aliases = {"production": "3", "champion": "2"}
    late, note = await AliasMirror(ports(stage)).reconcile(stage.record)
    assert late == ()
    assert "points at version 3" in str(note)
    assert (stage.record.alias_note, stage.serving) == (note, ("1", 2))
    assert stage.world.registry.aliases["production"] == "3"
    token = stage.world.store.token
    await AliasMirror(ports(stage)).reconcile(stage.record)
    assert stage.world.store.token == token


@on_stage(pods=0)
async def test_a_note_ends_when_the_alias_is_set_back(stage: Stage) -> None:
    stage.change(alias_note="was moved")
    assert await AliasMirror(ports(stage)).reconcile(stage.record) == ((), None)
    assert stage.record.alias_note is None


@on_stage(pods=0)
async def test_a_note_about_an_epoch_is_not_kept_at_a_later_one(stage: Stage) -> None:
    stage.world.registry.aliases = {"production": "3", "champion": "2"}
    seen = stage.record
    promote(stage, "3")
    _, note = await AliasMirror(ports(stage)).reconcile(seen)
    assert "points at version 3" in str(note)
    assert stage.record.alias_note is None


@on_stage(pods=0)
async def test_a_note_that_cannot_be_stored_is_reported_all_the_same(stage: Stage) -> None:
    stage.world.registry.aliases = {"production": "3", "champion": "2"}
    mirror = AliasMirror(ports(stage, records=ReadOnlyRecords(ports(stage).records)))
    late, note = await mirror.reconcile(stage.record)
    assert late == ()
    assert "points at version 3" in str(note)
    assert stage.record.alias_note is None
