"""Pods whose container restarts: each starts again with the version that it had."""

from collections.abc import Callable

from fraudops.promotion.ports import PodRef
from fraudops.promotion.preparation import voters_of
from tests.support.simulation.stage import FOR_EVER, Stage, on_stage

RESTARTING = PodRef("a", ready=False, running=False, restarting=True)


def after_the_commit(stage: Stage, act: Callable[[], None]) -> None:
    """Call `act` in the moment of the next commit."""
    commits = stage.world.checks.commits
    check = commits.on_commit

    def check_and_act(*arguments: object) -> None:
        commits.on_commit = check  # type: ignore[method-assign]
        check(*arguments)  # type: ignore[arg-type]
        act()

    commits.on_commit = check_and_act  # type: ignore[method-assign]


def end_container(stage: Stage, *names: str, blind: float = 0.0, down: float = 0.0) -> None:
    """End the containers of pods. The API shows it immediately.

    The next containers start `down` seconds later than usual, and then cannot read the record for
    `blind` seconds.
    """
    for name in names:
        pod = stage.pod(name)
        stage.world.cluster.crash(pod)
        pod.shown_running, pod.shown_ready, pod.shown_restarting = False, False, True
        pod.back_off_until = stage.world.clock + down
        pod.blind_until = stage.world.clock + down + blind


@on_stage()
async def test_an_act_is_not_done_before_a_restarting_pod_has_read_the_record(
    stage: Stage,
) -> None:
    after_the_commit(stage, lambda: end_container(stage, "pod-1", blind=12))
    began = stage.world.clock
    result = await stage.promote("3")
    # Until then the pod starts with version 1 from its cache, and turns ready with it.
    assert (result.outcome, stage.pod("pod-1").state.version) == ("done", "3")
    assert stage.world.clock > began + 12


@on_stage()
async def test_an_act_names_the_pod_whose_container_cannot_read_the_record(stage: Stage) -> None:
    after_the_commit(stage, lambda: end_container(stage, "pod-1", blind=FOR_EVER, down=FOR_EVER))
    result = await stage.promote("3")
    assert (result.outcome, result.behind) == ("unconfirmed", ("pod-1",))
    assert result.reason == "not confirmed by pod-1 (its container restarts)"
    assert stage.serving == ("3", 3)


@on_stage()
async def test_restarting_pods_trigger_no_undo_and_no_deletion(stage: Stage) -> None:
    names = ("pod-1", "pod-2", "pod-3")
    after_the_commit(stage, lambda: end_container(stage, *names, down=FOR_EVER))
    result = await stage.promote("3")
    assert (result.outcome, result.behind) == ("unconfirmed", names)
    assert stage.serving == ("3", 3)
    assert not any(pod.terminating for pod in stage.world.cluster.pods[:3])


@on_stage(pods=1)
async def test_pods_that_all_restart_are_named(stage: Stage) -> None:
    after_the_commit(stage, lambda: end_container(stage, "pod-1", down=FOR_EVER))
    result = await stage.promote("3")
    assert (result.outcome, result.behind) == ("unconfirmed", ("pod-1",))


@on_stage(pods=3)
async def test_an_act_does_not_wait_for_a_pod_that_has_never_run(stage: Stage) -> None:
    stage.world.cluster.schedules_from = FOR_EVER
    stage.world.cluster.start()
    assert (await stage.promote("3")).outcome == "done"
    assert stage.world.clock < 10


def test_a_restarting_pod_has_no_veto_and_takes_no_connections() -> None:
    assert voters_of([RESTARTING]) == []
    assert not RESTARTING.takes_connections
    assert str(RESTARTING) == "a (its container restarts)"
