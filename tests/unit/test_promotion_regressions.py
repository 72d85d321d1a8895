"""Faults of earlier releases, each as a hand-written scenario with its right ending.

The product's promoter and reconciler run over the ports of the simulation.
"""

from tests.support.simulation.jobs import RETRY, Job
from tests.support.simulation.stage import Stage, on_stage
from tests.support.simulation.world import Actor


@on_stage()
async def test_promoting_what_serves_with_two_silent_pods_changes_nothing(stage: Stage) -> None:
    stage.silence("pod-1", "pod-2")
    result = await stage.promote("1")
    assert (result.outcome, result.behind) == ("unconfirmed", ("pod-1", "pod-2"))
    assert stage.serving == ("1", 2)
    assert stage.way_back == ["2"]


@on_stage(stack=("2", "3"))
async def test_a_rollback_with_two_lost_pods_stays_and_names_them(stage: Stage) -> None:
    for name in ("pod-1", "pod-2"):
        stage.world.cluster.lose(stage.pod(name), "kept")
    await stage.wait(50)
    result = await stage.roll_back()
    assert (result.outcome, set(result.behind)) == ("unconfirmed", {"pod-1", "pod-2"})
    assert "its node does not answer" in (result.reason or "")
    assert stage.serving == ("2", 4)
    again = await stage.roll_back()
    assert again.outcome == "unconfirmed"
    assert stage.serving == ("3", 5)
    assert stage.way_back == []


@on_stage()
async def test_unready_pods_do_not_trigger_an_undo(stage: Stage) -> None:
    stage.silence("pod-1", "pod-2")
    stage.make_unready("pod-1", "pod-2")
    result = await stage.promote("3")
    assert (result.outcome, result.behind) == ("unconfirmed", ("pod-1", "pod-2"))
    assert stage.serving == ("3", 3)


@on_stage()
async def test_two_ready_pods_that_fall_silent_trigger_the_undo(stage: Stage) -> None:
    stage.world.odds["pods fall silent after a commit"] = 1.0
    result = await stage.promote("3")
    stage.world.calm = True
    assert result.outcome in ("failed", "unconfirmed")
    assert stage.serving == ("1", 4)
    assert stage.way_back == ["2"]


@on_stage(stack=("2", "3"))
async def test_a_rollback_decided_on_an_old_read_is_overtaken(stage: Stage) -> None:
    job = Job("slow", act="rollback")
    # Its gate blocks the loop, so its lock is not renewed and goes to the other promoter.
    slow = Actor("slow/0", job)
    stage.world.odds["blocking gate"] = 1.0
    first = stage.world.spawn(stage.act(job, slow))
    await stage.wait(2)
    stage.world.odds.clear()
    slow.paused_until = stage.world.clock + 60
    other = await stage.promote("3")
    assert other.outcome == "done"
    result = await first
    assert (result.outcome, stage.serving) == ("overtaken", ("3", 4))
    assert stage.way_back == ["1", "2", "3"]
    backwards = [(await stage.roll_back()).version for _ in range(3)]
    assert backwards == ["1", "2", "3"]


@on_stage(pods=2)
async def test_a_rollback_to_another_schema_goes_by_rollout(stage: Stage) -> None:
    assert (await stage.promote("7", strategy="rollout")).outcome == "done"
    result = await stage.roll_back()
    assert (result.outcome, stage.serving) == ("done", ("1", 4))
    assert stage.record.current is not None
    assert stage.record.current.strategy == "rollout"


@on_stage()
async def test_a_version_deleted_after_its_commit_only_makes_the_alias_note(stage: Stage) -> None:
    assert (await stage.promote("3")).outcome == "done"
    stage.world.registry.delete("3")
    await stage.reconcile()
    assert "version 3, which serves, is no longer in the registry" in str(stage.record.alias_note)
    result = await stage.promote("2")
    assert (result.outcome, result.late) == ("done", ())
    assert "champion" not in stage.world.registry.aliases
    back = await stage.roll_back()
    assert (back.outcome, stage.serving) == ("done", ("3", 5))
    assert "production" not in stage.world.registry.aliases
    assert stage.row("act-3").outcome == "done"


@on_stage()
async def test_a_refused_act_leaves_no_waiver(stage: Stage) -> None:
    stage.pod("pod-1").refuses = frozenset({"6" * 64})
    forced = await stage.promote("6", force=True)
    assert forced.outcome == "refused"
    assert (stage.record.reserved, stage.serving, stage.way_back) == (None, ("1", 2), ["2"])
    stage.pod("pod-1").refuses = frozenset()
    result = await stage.promote("6")
    assert result.outcome == "refused"
    assert "no verdict" in str(result.reason)


@on_stage(stack=("2", "3"))
async def test_a_version_never_becomes_its_own_way_back(stage: Stage) -> None:
    assert (await stage.promote("3")).outcome == "done"
    assert (await stage.roll_back()).version == "1"
    stage.world.odds["pods fall silent after a commit"] = 1.0
    await stage.promote("2")
    stage.world.calm = True
    assert stage.serving == ("1", 7)
    assert stage.way_back == ["2", "3"]


@on_stage()
async def test_a_pod_that_cannot_load_for_a_while_is_asked_again(stage: Stage) -> None:
    stage.pod("pod-1").busy_until = 8.0
    result = await stage.promote("3")
    assert (result.outcome, stage.serving) == ("done", ("3", 3))


@on_stage()
async def test_an_unready_pod_that_hangs_holds_no_prepare(stage: Stage) -> None:
    stage.silence("pod-4", seconds=8)
    stage.make_unready("pod-4")
    began = stage.world.clock
    job = Job("quick", version="3")
    promotion = stage.world.spawn(stage.act(job))
    while stage.serving != ("3", 3):
        await stage.wait(0.5)
        assert stage.world.clock < began + 5
    assert (await promotion).outcome == "done"


@on_stage()
async def test_rows_of_acts_that_left_the_record_are_written_later(stage: Stage) -> None:
    stage.world.store.database_down_until = stage.world.clock + 30
    results = [await stage.promote("3"), await stage.promote("2"), await stage.roll_back()]
    assert [result.late for result in results] == [("row",)] * 3
    assert stage.world.store.rows == {}
    await stage.wait(40)
    await stage.reconcile()
    assert [stage.row(f"act-{n}").outcome for n in (1, 2, 3)] == ["done"] * 3
    assert stage.record.unwritten == ()


@on_stage()
async def test_a_store_that_answers_no_write_is_called_a_bounded_number_of_times(
    stage: Stage,
) -> None:
    stage.world.odds["lost write"] = 1.0
    job = Job("unlucky", version="3")
    attempt = stage.world.spawn(stage.runner.attempt(job, Actor("unlucky/0", job)))
    while not attempt.done():
        await stage.wait(1)
        # A promoter without a bound never ends.
        assert stage.world.clock < 300
    assert await attempt == 75
    # The checks of the simulation allow 60 calls in 5 s.
    assert stage.serving == ("1", 2)


@on_stage(pods=2)
async def test_a_pod_obeys_no_template_for_the_reservation_of_a_broadcast(stage: Stage) -> None:
    stage.pod("pod-1").busy_until = stage.world.clock + 10
    promotion = stage.world.spawn(stage.act(Job("slow", version="3")))
    while stage.record.reserved is None:
        await stage.wait(0.1)
    stage.world.store.template = stage.record.reserved.target
    new = stage.world.cluster.start()
    await stage.wait(6)
    assert new.state.target == stage.record.current.target  # type: ignore[union-attr]
    assert (await promotion).outcome == "done"


@on_stage()
async def test_the_row_of_an_act_of_release_0_2_0_survives_the_new_format(stage: Stage) -> None:
    stage.start_from_0_2_0()
    assert (await stage.promote("3")).outcome == "done"
    await stage.reconcile()
    assert stage.row("founder-2").outcome == "done"


@on_stage()
async def test_taking_back_an_act_keeps_what_its_promoter_has_reported(stage: Stage) -> None:
    stage.pod("pod-1").busy_until = stage.world.clock + 5
    job = Job("slow", version="3")
    promotion = stage.world.spawn(stage.runner.attempt(job, Actor("slow/0", job)))
    while stage.record.reserved is None:
        await stage.wait(0.1)
    # A promoter without the lock changes the record's token. No outcome can be written for a time.
    stage.world.store.database_down_until = stage.world.clock + 20
    stage.world.store.token += 1
    assert await promotion == RETRY
    await stage.wait(30)
    await stage.reconcile()
    assert stage.record.reserved is None
    assert stage.row("slow").outcome == "refused"
    assert "try again" in str(stage.row("slow").reason)


@on_stage()
async def test_a_user_s_change_of_champion_is_noted(stage: Stage) -> None:
    stage.world.registry.aliases["champion"] = "3"
    await stage.reconcile()
    assert "the registry's alias champion points at version 3" in str(stage.record.alias_note)
    assert (await stage.promote("3")).outcome == "done"
    assert stage.world.registry.aliases["champion"] == "1"
    assert stage.record.alias_note is None
