"""Rows of acts while PostgreSQL is down, and what the reconciler finishes."""

from dataclasses import replace
from typing import Any

import msgspec
import pytest

from fraudops.errors import StoreDownError
from fraudops.promotion.attempt import Attempt
from fraudops.promotion.changes import Promote, reservation
from fraudops.promotion.outcomes import Outcomes, of_earlier_try, with_abandoned
from fraudops.promotion.ports import UnknownWriteError
from fraudops.promotion.reconcile import Reconciler, ReconcileResult
from fraudops.promotion.serving_record import (
    NewerFormatError,
    ServingRecord,
    encode,
    keep_outcome,
    reserve,
)
from tests.support.simulation.founding import model_of
from tests.support.simulation.jobs import ports_of
from tests.support.simulation.registry import digest_of
from tests.support.simulation.stage import FOR_EVER, Stage, on_stage
from tests.support.simulation.store import SimRecords
from tests.support.simulation.world import Actor


def row(request: str = "mine", **fields: Any) -> Attempt:
    return Attempt(request=request, requested_by="ada", at="then", **fields)


def outcomes(stage: Stage) -> Outcomes:
    return Outcomes(ports_of(stage.world, Actor("mine")))


def reconciler(stage: Stage, **ports: Any) -> Reconciler:
    return Reconciler(replace(ports_of(stage.world, Actor("reconciler"), 40.0), **ports))


def keep(stage: Stage, *rows: Attempt) -> None:
    for each in rows:
        stage.write(keep_outcome(stage.record, each))


def reserved(stage: Stage, strategy: Any = "broadcast") -> ServingRecord:
    """Return the record as a promoter leaves it that dies before its commit."""
    change = Promote(model_of("3"), strategy)
    return reserve(stage.record, reservation(change, 3, "dead", "grace", "then"))


# -- the rows of an act


@on_stage()
async def test_a_row_starts_and_ends_in_the_database(stage: Stage) -> None:
    before = stage.world.store.token
    await outcomes(stage).started(row(version="3"))
    assert stage.row("mine") == row(version="3")
    assert await outcomes(stage).ended(row(version="3", outcome="done")) == ()
    ended = stage.row("mine")
    assert ended == row(version="3", outcome="done", finished_at=ended.finished_at)
    assert ended.finished_at is not None
    # The record keeps no row, so it is not written.
    assert stage.world.store.token == before


@on_stage()
async def test_a_row_that_cannot_start_does_not_stop_the_act(stage: Stage) -> None:
    stage.world.store.database_down_until = FOR_EVER
    await outcomes(stage).started(row())
    assert (stage.world.store.rows, stage.record.unwritten) == ({}, ())


@on_stage()
async def test_without_the_database_the_record_keeps_the_finished_row(stage: Stage) -> None:
    keep(stage, row(outcome="unconfirmed"), row("other", outcome="done"))
    stage.world.store.database_down_until = FOR_EVER
    assert await outcomes(stage).ended(row(outcome="done")) == ("row",)
    other, mine = stage.record.unwritten
    assert (other.request, mine) == ("other", row(outcome="done", finished_at=mine.finished_at))
    assert mine.finished_at is not None
    assert stage.world.store.rows == {}


@on_stage()
async def test_a_written_outcome_replaces_the_row_of_its_request_in_the_record(
    stage: Stage,
) -> None:
    keep(stage, row(outcome="unconfirmed"), row("other", outcome="done"))
    await outcomes(stage).ended(row(outcome="done"))
    assert [kept.request for kept in stage.record.unwritten] == ["other"]


@on_stage()
async def test_the_record_has_the_outcome_of_a_commit_before_the_database(stage: Stage) -> None:
    keep(stage, row(outcome="unconfirmed"))
    ended = stage.world.spawn(outcomes(stage).ended(row(outcome="done")))
    while "mine" not in stage.world.store.rows:
        (kept,) = stage.record.unwritten
        await stage.wait(0.01)
    # A promoter that dies now has reported, so its next try does not undo the act.
    assert kept.outcome == "done"
    assert await ended == ()


@on_stage()
async def test_a_commit_that_the_record_cannot_report_is_not_reported(stage: Stage) -> None:
    keep(stage, row(outcome="unconfirmed"))
    stage.world.store.api_down_until = FOR_EVER
    with pytest.raises(StoreDownError, match="ended as done, but the serving record cannot"):
        await outcomes(stage).ended(row(outcome="done"))
    assert stage.world.store.rows == {}
    assert stage.record.unwritten == (row(outcome="unconfirmed"),)


@pytest.mark.parametrize("outcome", ["refused", "unchanged"])
def test_an_act_without_a_commit_is_reported_while_the_record_is_away(outcome: Any) -> None:
    @on_stage()
    async def play(stage: Stage) -> None:
        stage.world.store.api_down_until = FOR_EVER
        assert await outcomes(stage).ended(row(outcome=outcome)) == ()
        assert stage.row("mine").outcome == outcome

    play()


@on_stage()
async def test_an_outcome_that_no_store_can_keep_is_an_error(stage: Stage) -> None:
    stage.world.store.database_down_until = stage.world.store.api_down_until = FOR_EVER
    with pytest.raises(StoreDownError, match=r"ended as refused, but the serving record cannot"):
        await outcomes(stage).ended(row(outcome="refused"))


@on_stage()
async def test_kept_rows_are_written_once_and_leave_the_record(stage: Stage) -> None:
    keep(stage, row("a", outcome="done"), row("b", outcome="refused"))
    assert await outcomes(stage).flush() == 2
    assert {kept.request: kept.outcome for kept in stage.world.store.rows.values()} == {
        "a": "done",
        "b": "refused",
    }
    assert stage.record.unwritten == ()
    assert await outcomes(stage).flush() == 0


@on_stage()
async def test_a_row_that_is_kept_while_others_are_written_stays(stage: Stage) -> None:
    keep(stage, row("a", outcome="done"))
    flush = stage.world.spawn(outcomes(stage).flush())
    while "a" not in stage.world.store.rows:
        await stage.wait(0.01)
    keep(stage, row("b", outcome="done"))
    assert await flush == 1
    assert [kept.request for kept in stage.record.unwritten] == ["b"]


@pytest.mark.parametrize("down", [(), (1,), (2,), (1, 2)], ids=str)
def test_the_later_try_decides_the_row_whatever_its_clock_shows(down: tuple[int, ...]) -> None:
    async def play(stage: Stage) -> None:
        tries = ((1, "unconfirmed", 200.0), (2, "done", -200.0))
        for number, outcome, offset in tries:
            store = stage.world.store
            store.database_down_until = FOR_EVER if number in down else 0.0
            actor = Actor(f"mine/{number}", offset=offset)
            await Outcomes(ports_of(stage.world, actor)).ended(row(outcome=outcome))
            store.database_down_until = 0.0
            await outcomes(stage).flush()
        assert (stage.row("mine").outcome, stage.record.unwritten) == ("done", ())

    on_stage()(play)()


# -- the row of a promoter that ended before its commit


@on_stage()
async def test_an_abandoned_act_has_a_provisional_row_with_all_that_it_reserved(
    stage: Stage,
) -> None:
    change = Promote(model_of("3"), "rollout")
    left = reservation(change, 3, "dead", "grace", "then")
    assert with_abandoned(stage.record, left).unwritten == (
        Attempt(
            request="dead",
            requested_by="grace",
            at="then",
            act="promote",
            strategy="rollout",
            version="3",
            digest=digest_of("3"),
            from_version="1",
            epoch=3,
            outcome="refused",
            reason="its promoter ended before the commit: nothing has changed",
            signer=left.signer,
        ),
    )
    assert left.signer is not None
    back = msgspec.structs.replace(left, act="rollback")
    (kept,) = with_abandoned(ServingRecord(), back).unwritten
    assert (kept.act, kept.from_version) == ("rollback", None)


@on_stage()
async def test_what_a_promoter_has_reported_itself_stays(stage: Stage) -> None:
    left = reserved(stage).reserved
    assert left is not None
    reported = row("dead", outcome="refused", reason="pod a refuses", finished_at="then")
    others = row("other", outcome="done", finished_at="then")
    provisional = row("dead", outcome="unconfirmed")
    assert with_abandoned(keep_outcome(stage.record, reported), left).unwritten == (reported,)
    for before in (others, provisional):
        record = with_abandoned(keep_outcome(stage.record, before), left)
        assert record.unwritten[-1].reason == (
            "its promoter ended before the commit: nothing has changed"
        )


# -- the reconciler


@on_stage()
async def test_a_reconciler_that_finds_no_work_changes_nothing(stage: Stage) -> None:
    before = stage.world.store.token
    assert await reconciler(stage).run("reconciler") == ReconcileResult()
    assert (stage.world.store.token, stage.world.store.rows) == (before, {})
    assert stage.world.store.lease.holder is None


@on_stage(pods=2)
async def test_a_dead_promoters_reservation_annotation_and_row_are_finished(stage: Stage) -> None:
    stage.write(reserved(stage, "rollout"))
    assert stage.record.reserved is not None
    stage.world.store.template = stage.record.reserved.target
    assert await reconciler(stage).run("reconciler") == ReconcileResult(rows=1)
    assert (stage.record.reserved, stage.world.store.template) == (None, None)
    assert (stage.row("dead").outcome, stage.record.unwritten) == ("refused", ())
    assert stage.serving == ("1", 2)


@on_stage()
async def test_a_late_alias_is_written_and_a_moved_one_is_reported(stage: Stage) -> None:
    stage.change(alias_epoch=1)
    stage.world.registry.aliases = {"production": "3"}
    assert await reconciler(stage).run("reconciler") == ReconcileResult()
    assert stage.world.registry.aliases == {"production": "1", "champion": "2"}
    assert stage.record.alias_epoch == 2
    stage.world.registry.aliases["production"] = "3"
    result = await reconciler(stage).run("reconciler")
    assert "points at version 3" in str(result.alias)
    assert stage.world.registry.aliases["production"] == "3"
    assert stage.record.alias_note == result.alias


@on_stage()
async def test_rows_are_late_while_the_database_is_down_and_the_alias_is_not(stage: Stage) -> None:
    keep(stage, row(outcome="done"))
    stage.change(alias_epoch=1)
    stage.world.store.database_down_until = FOR_EVER
    assert await reconciler(stage).run("reconciler") == ReconcileResult(late=("rows",))
    assert (len(stage.record.unwritten), stage.record.alias_epoch) == (1, 2)


@pytest.mark.parametrize("mirrored", [1, 2], ids=["late", "to be compared"])
def test_the_alias_is_late_while_the_registry_is_down_and_rows_are_not(mirrored: int) -> None:
    async def play(stage: Stage) -> None:
        keep(stage, row(outcome="done"))
        stage.change(alias_epoch=mirrored)
        stage.world.registry.down_until = FOR_EVER
        result = await reconciler(stage).run("reconciler")
        assert result == ReconcileResult(late=("alias",), rows=1)
        assert stage.row("mine").outcome == "done"

    on_stage()(play)()


@on_stage()
async def test_all_that_is_late_is_named(stage: Stage) -> None:
    keep(stage, row(outcome="done"))
    stage.world.store.database_down_until = stage.world.registry.down_until = FOR_EVER
    result = await reconciler(stage).run("reconciler")
    assert result == ReconcileResult(late=("rows", "alias"))


@on_stage()
async def test_the_reconciler_names_the_promotion_that_has_the_lock(stage: Stage) -> None:
    stage.write(reserved(stage))
    holder = Actor("a promotion")
    async with ports_of(stage.world, holder).lock.hold("a promotion"):
        result = await reconciler(stage).run("reconciler")
    assert result == ReconcileResult(busy="a promotion")
    assert stage.record.reserved is not None


@on_stage()
async def test_a_record_of_a_newer_format_stays_as_it_is(stage: Stage) -> None:
    keep(stage, row(outcome="done"))
    newer = encode(stage.record).replace(b'"format":2', b'"format":3')
    stage.world.store.start_from(newer)
    with pytest.raises(NewerFormatError):
        await reconciler(stage).run("reconciler")
    assert (stage.world.store.data, stage.world.store.rows) == (newer, {})


@on_stage()
async def test_a_record_that_cannot_be_read_is_an_error(stage: Stage) -> None:
    stage.world.store.api_down_until = FOR_EVER
    with pytest.raises(StoreDownError):
        await reconciler(stage).run("reconciler")


class NoWrites(SimRecords):
    """The store answers reads and no write."""

    async def compare_and_set(self, record: ServingRecord, token: Any) -> Any:
        await self.world.step(self.actor)
        raise UnknownWriteError("the store does not answer")


@on_stage()
async def test_rows_are_late_when_the_record_cannot_drop_them(stage: Stage) -> None:
    keep(stage, row(outcome="done"))
    records = NoWrites(stage.world, Actor("reconciler"))
    result = await reconciler(stage, records=records).run("reconciler")
    assert result == ReconcileResult(late=("rows",))
    assert stage.row("mine").outcome == "done"
    assert len(stage.record.unwritten) == 1


# -- two tries of one request


async def until_the_database_has_the_row(stage: Stage) -> None:
    while "mine" not in stage.world.store.rows:
        await stage.wait(0.01)


@on_stage()
async def test_a_final_row_leaves_the_record_when_the_database_has_it(stage: Stage) -> None:
    keep(stage, row(outcome="unconfirmed", epoch=3))
    assert await outcomes(stage).ended(row(outcome="done", epoch=3)) == ()
    assert stage.record.unwritten == ()
    assert stage.row("mine").outcome == "done"


@on_stage()
async def test_an_older_row_that_could_not_be_replaced_leaves_the_record(stage: Stage) -> None:
    keep(stage, row(outcome="refused", reason="its promoter ended before the commit"))
    stage.world.store.api_down_until = FOR_EVER
    ended = stage.world.spawn(outcomes(stage).ended(row(outcome="refused", reason="pod a refuses")))
    await until_the_database_has_the_row(stage)
    stage.world.store.api_down_until = 0.0
    assert await ended == ()
    assert stage.record.unwritten == ()


@on_stage()
async def test_the_row_of_a_later_try_stays(stage: Stage) -> None:
    keep(stage, row(outcome="refused"))
    ended = stage.world.spawn(outcomes(stage).ended(row(outcome="refused", reason="pod a refuses")))
    await until_the_database_has_the_row(stage)
    later = row(outcome="done", epoch=5, finished_at="then")
    keep(stage, later)
    assert await ended == ()
    assert stage.record.unwritten == (later,)


@on_stage()
async def test_a_late_refusal_does_not_replace_what_a_later_try_has_reported(stage: Stage) -> None:
    later = row(outcome="done", epoch=5, finished_at="then")
    keep(stage, later)
    stage.world.store.database_down_until = FOR_EVER
    assert await outcomes(stage).ended(row(outcome="refused")) == ("row",)
    assert stage.record.unwritten == (later,)


def serving(stage: Stage, act: str) -> ServingRecord:
    assert stage.record.current is not None
    current = msgspec.structs.replace(stage.record.current, act=act, by="mine")
    return msgspec.structs.replace(stage.record, current=current)


@on_stage()
async def test_a_try_follows_the_commit_of_an_earlier_one(stage: Stage) -> None:
    record = serving(stage, "promote")
    assert record.current is not None
    found = of_earlier_try(row(outcome="started"), record)
    assert (found.version, found.digest) == (record.current.version, record.current.digest)
    assert (found.epoch, found.strategy) == (record.current.epoch, record.current.strategy)
    assert found.from_version == (record.previous.version if record.previous else None)


@on_stage()
async def test_after_an_undo_the_kept_row_names_the_act(stage: Stage) -> None:
    record, kept = serving(stage, "undo"), row(outcome="failed", epoch=2, version="7")
    assert of_earlier_try(row(outcome="started"), keep_outcome(record, kept)) == kept
    assert of_earlier_try(row(outcome="started"), record) == row(outcome="started")
