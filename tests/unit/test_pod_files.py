"""The two files that the workers of a pod share."""

from pathlib import Path

import pytest

from fraudops.promotion.pod_rules import PodState
from fraudops.promotion.serving_record import ServingTarget
from fraudops.state import State
from services.inference.pod.state import (
    RecordView,
    pod_state_path,
    read_pod_state,
    read_record_view,
    record_view_path,
    write,
)

TARGET = ServingTarget(4, "1", "1" * 64)


@pytest.fixture
def state(tmp_path: Path) -> State:
    made = State.at(tmp_path)
    made.run.mkdir()
    return made


def test_each_file_is_read_as_it_was_written(state: State) -> None:
    serving = PodState().serving(TARGET, "peer")
    view = RecordView(
        target=TARGET, ready=True, error="an error", refused="altered", without_model=True
    )
    write(pod_state_path(state), serving)
    write(record_view_path(state), view)
    assert (read_pod_state(state), read_record_view(state)) == (serving, view)


@pytest.mark.parametrize("damage", [None, "", "{", '{"epoch": "four", "ready": 4}'])
def test_a_missing_or_damaged_file_says_nothing(state: State, damage: str | None) -> None:
    if damage is not None:
        pod_state_path(state).write_text(damage)
        record_view_path(state).write_text(damage)
    assert (read_pod_state(state), read_record_view(state)) == (PodState(), RecordView())


def test_the_next_container_of_the_pod_finds_the_files_by_name(state: State) -> None:
    assert pod_state_path(state) == state.run / "pod.json"
    assert record_view_path(state) == state.run / "record.json"
    # A pod that has seen nothing is not ready.
    assert not RecordView().ready
    assert not RecordView().without_model
