"""Faults of release 0.2.0 around the fence, each with the ending that is right.

`test_promotion_regressions.py` holds the others. Each test fails with the old behaviour.
"""

from typing import Any

import msgspec

from fraudops.errors import FraudopsError
from fraudops.promotion.attempt import Act
from fraudops.promotion.reconcile import Reconciler
from fraudops.promotion.serving_record import ServingTarget, encode
from tests.support.simulation.founding import entry_of
from tests.support.simulation.jobs import RETRY, Job, ports_of
from tests.support.simulation.registry import digest_of
from tests.support.simulation.stage import Stage, on_stage
from tests.support.simulation.world import Actor


async def act_that_two_pods_do_not_follow(stage: Stage, job: Job, seconds: float = 60) -> Any:
    """Run the job. Two ready pods prepare the version, and are silent from then on."""
    stage.pod("pod-4").busy_until = stage.world.clock + 3
    running = stage.world.spawn(stage.act(job))
    await stage.wait(2)
    stage.silence("pod-1", "pod-2", seconds=seconds)
    return await running


# -- what may be undone, and which pods count


@on_stage()
async def test_a_job_that_runs_again_does_not_undo_what_it_has_reported(stage: Stage) -> None:
    job = Job("twice", version="3")
    assert (await stage.act(job)).outcome == "done"
    stage.silence("pod-1", "pod-2")
    again = await stage.act(job, Actor("twice/1", job))
    assert (again.outcome, again.behind) == ("unconfirmed", ("pod-1", "pod-2"))
    assert (stage.serving, stage.way_back) == (("3", 3), ["1", "2"])


@on_stage(stack=("2", "3"))
async def test_a_rollback_with_two_silent_ready_pods_stays(stage: Stage) -> None:
    result = await act_that_two_pods_do_not_follow(stage, Job("back", act="rollback"))
    assert (result.outcome, result.behind) == ("unconfirmed", ("pod-1", "pod-2"))
    assert (stage.serving, stage.way_back) == (("2", 4), ["3"])
    assert stage.row("back").outcome == "unconfirmed"


@on_stage()
async def test_pods_of_lost_nodes_leave_a_promotion_unconfirmed_until_they_are_gone(
    stage: Stage,
) -> None:
    for name in ("pod-1", "pod-2"):
        stage.world.cluster.lose(stage.pod(name), "kept")
    await stage.wait(50)
    job = Job("mine", version="3")
    assert await stage.runner.attempt(job, Actor("mine/0", job)) == RETRY
    result = stage.runner.results["mine"]
    assert (result.outcome, set(result.behind)) == ("unconfirmed", {"pod-1", "pod-2"})
    assert set(stage.row("mine").behind) == {"pod-1", "pod-2"}
    for name in ("pod-1", "pod-2"):
        stage.world.cluster.crash(stage.pod(name))
        stage.pod(name).gone = True
    again = await stage.act(job, Actor("mine/1", job))
    assert (again.outcome, again.behind, stage.serving) == ("done", (), ("3", 3))
    assert (stage.row("mine").outcome, stage.row("mine").behind) == ("done", ())


@on_stage()
async def test_pods_that_never_end_do_not_trigger_an_undo(stage: Stage) -> None:
    for name in ("pod-1", "pod-2"):
        stage.world.cluster.lose(stage.pod(name), "kubelet")
        stage.world.spawn(stage.world.cluster.end(stage.pod(name)))
    stage.silence("pod-1", "pod-2")
    await stage.wait(1)
    result = await stage.promote("3")
    assert (result.outcome, set(result.behind)) == ("unconfirmed", {"pod-1", "pod-2"})
    assert stage.serving == ("3", 3)


# -- one read decides


def replace_production(stage: Stage, version: str) -> None:
    """Let an act of another promoter be committed, without the lock."""
    record = stage.record
    assert record.current is not None
    epoch = record.epoch + 1
    after = msgspec.structs.replace(
        record,
        current=entry_of(version, epoch),
        previous=record.current,
        stack=(record.current, *record.stack),
        highest_reserved=epoch,
    )
    store = stage.world.store
    store.data, store.record, store.token = encode(after), after, store.token + 1
    stage.world.checks.commits.founded(after)


async def act_while_production_changes(stage: Stage, job: Job, version: str) -> Any:
    """Run the job; another version is committed while its gate works."""
    actor = Actor(f"{job.id}/0", job)
    stage.world.odds["long gate"] = 1.0
    running = stage.world.spawn(stage.act(job, actor))
    while actor.delayed == 0:
        await stage.wait(0.1)
    stage.world.odds.clear()
    replace_production(stage, version)
    return await running


@on_stage()
async def test_a_version_is_compared_with_what_serves_when_it_is_reserved(stage: Stage) -> None:
    # Version 8 is better than version 1, and worse than version 3.
    result = await act_while_production_changes(stage, Job("mine", version="8"), "3")
    assert (result.outcome, stage.serving) == ("refused", ("3", 3))
    assert "worse" in str(result.reason)
    assert stage.record.reserved is None


@on_stage()
async def test_the_epoch_that_a_user_names_is_that_of_the_reservation(stage: Stage) -> None:
    result = await act_while_production_changes(stage, Job("mine", version="2", if_epoch=2), "3")
    assert (result.outcome, stage.serving) == ("refused", ("3", 3))
    assert "epoch 3" in str(result.reason)


@on_stage(pods=2)
async def test_a_rollback_that_waits_for_a_change_of_schema_goes_by_rollout(stage: Stage) -> None:
    first = stage.world.spawn(stage.promote("7", strategy="rollout"))
    while stage.record.reserved is None:
        await stage.wait(0.1)
    # It asks before the promotion has changed the schema, and decides afterwards.
    result = await stage.roll_back()
    assert (await first).outcome == "done"
    assert (result.outcome, stage.serving, stage.way_back) == ("done", ("1", 4), ["2"])
    assert stage.record.current is not None
    assert stage.record.current.strategy == "rollout"
    assert stage.row("act-2").strategy == "rollout"


# -- after the commit


class RefusesWriters(dict[str, Actor]):
    def __setitem__(self, alias: str, actor: Actor) -> None:
        raise FraudopsError("the registry refuses the write")


@on_stage()
async def test_a_registry_that_refuses_the_alias_only_makes_it_late(stage: Stage) -> None:
    stage.world.registry.writers = RefusesWriters()
    result = await stage.promote("3")
    assert (result.outcome, result.late, stage.serving) == ("done", ("alias",), ("3", 3))
    assert all(pod.state.version == "3" for pod in stage.world.cluster.pods)
    assert stage.row("act-1").outcome == "done"
    stage.world.registry.writers = {}
    await stage.reconcile()
    assert stage.world.registry.aliases == {"production": "3", "champion": "1"}


# -- the stack


@on_stage()
async def test_a_new_epoch_of_what_serves_is_not_undone_into_its_own_way_back(
    stage: Stage,
) -> None:
    # A pod has seen a later epoch, because the record was restored from a backup.
    stage.world.checks.commits.targets.add((7, digest_of("2")))
    pod = stage.pod("pod-3")
    pod.state = pod.state.serving(ServingTarget(7, "2", digest_of("2")), "cache")
    result = await act_that_two_pods_do_not_follow(stage, Job("mine", version="1"))
    assert (result.outcome, stage.serving, stage.way_back) == ("unconfirmed", ("1", 8), ["2"])
    await stage.wait(60)
    back = await stage.roll_back()
    assert (back.outcome, back.version, stage.way_back) == ("done", "2", [])


@on_stage(stack=("2", "3"))
async def test_every_entry_names_the_act_that_made_it(stage: Stage) -> None:
    acts: list[Act | str] = []
    await stage.promote("3")
    acts.append(stage.record.current.act)  # type: ignore[union-attr]
    await stage.roll_back()
    acts.append(stage.record.current.act)  # type: ignore[union-attr]
    await act_that_two_pods_do_not_follow(stage, Job("fails", version="2"))
    acts.append(stage.record.current.act)  # type: ignore[union-attr]
    assert acts == ["promote", "rollback", "undo"]


# -- rows without PostgreSQL


@on_stage()
async def test_rows_of_acts_that_committed_nothing_or_were_undone_are_written_later(
    stage: Stage,
) -> None:
    stage.world.store.database_down_until = stage.world.clock + 200
    stage.pod("pod-1").refuses = frozenset({digest_of("2")})
    assert (await stage.promote("2")).outcome == "refused"
    undone = await act_that_two_pods_do_not_follow(stage, Job("fails", version="3"), seconds=30)
    assert (undone.outcome, undone.late, stage.serving[0]) == ("failed", ("row",), "1")
    assert stage.world.store.rows == {}
    await stage.wait(200)
    await stage.reconcile()
    assert (stage.row("act-1").outcome, stage.row("fails").outcome) == ("refused", "failed")
    assert stage.row("fails").behind == ("pod-1", "pod-2")
    assert stage.record.unwritten == ()


# -- the reconciler


@on_stage(pods=2)
async def test_the_reconciler_leaves_a_long_rollout_alone_and_does_not_fail(stage: Stage) -> None:
    stage.world.cluster.schedules_from = stage.world.clock + 50
    rollout = stage.world.spawn(stage.promote("3", strategy="rollout"))
    while stage.record.reserved is None:
        await stage.wait(0.1)
    # As the CronJob, it waits for the lock for 40 s. The rollout takes longer.
    ports = ports_of(stage.world, Actor("reconciler"), wait_seconds=40.0)
    result = await Reconciler(ports).run("reconciler")
    assert (result.busy, result.late, rollout.done()) == ("act-1/0", (), False)
    assert (await rollout).outcome == "done"
    assert stage.serving == ("3", 3)
