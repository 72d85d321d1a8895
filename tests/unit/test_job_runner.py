"""End of a job: its termination message, its exit code, its marked output and its retries."""

import io
import time
from pathlib import Path

import click
import pytest

from fraudops.errors import RefusedError, StoreDownError
from fraudops.promotion.ports import UnknownWriteError
from jobs import runner


@pytest.fixture
def termination_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "termination-log"
    path.write_text("before")
    monkeypatch.setattr(runner.conclude, "__defaults__", (path,))
    monkeypatch.setattr("sys.argv", ["job"])
    return path


def ended(callback: object) -> int:
    try:
        runner.run(click.Command("job", callback=callback))  # type: ignore[arg-type]
    except SystemExit as exit_:
        return int(exit_.code or 0)
    return 0


def test_the_result_of_a_command_is_written_as_one_line(termination_file: Path) -> None:
    assert ended(lambda: "version 3\n is registered") == 0
    assert termination_file.read_text() == "version 3 is registered"


def test_an_error_is_written_with_its_exit_code(termination_file: Path) -> None:
    def refuse() -> None:
        raise RefusedError("version 3 is refused (roc_auc)")

    assert ended(refuse) == 65
    assert termination_file.read_text() == "version 3 is refused (roc_auc)"


def test_an_unanswered_write_has_the_exit_code_of_a_retry(termination_file: Path) -> None:
    def lose() -> None:
        raise UnknownWriteError("the Kubernetes API did not answer a write")

    assert ended(lose) == 75
    assert termination_file.read_text() == "the Kubernetes API did not answer a write"


def test_a_crash_writes_its_type_and_not_its_message(termination_file: Path) -> None:
    def crash() -> None:
        raise ValueError("4111 1111 1111 1111")

    with pytest.raises(ValueError):
        ended(crash)
    assert termination_file.read_text() == "crashed with ValueError: see the log"


def test_a_long_line_is_cut_to_what_kubernetes_keeps(tmp_path: Path) -> None:
    path = tmp_path / "termination-log"
    path.touch()
    runner.conclude("é" * 3000, path)
    assert path.read_text() == "é" * 2000


def test_nothing_is_written_where_there_is_no_such_file(tmp_path: Path) -> None:
    runner.conclude("done", tmp_path / "missing")
    assert list(tmp_path.iterdir()) == []


def test_a_returned_number_is_the_exit_code(termination_file: Path) -> None:
    assert ended(lambda: 75) == 75


def test_marked_output_marks_every_line_once() -> None:
    raw = io.BytesIO()
    stream = runner.marked(raw)
    for text in ("one\ntw", "o\n\n", "three"):
        stream.write(text)
        stream.flush()
    assert raw.getvalue().decode() == "\x1eone\n\x1etwo\n\x1e\n\x1ethree"


class Flaky:
    """An attempt that fails with each reason in turn and then succeeds."""

    def __init__(self, *reasons: str) -> None:
        self._reasons = list(reasons)

    def __call__(self) -> str:
        if self._reasons:
            raise StoreDownError(self._reasons.pop(0))
        return "done"


def test_a_retry_prints_each_new_reason_once(capsys: pytest.CaptureFixture[str]) -> None:
    attempt = Flaky("no server", "no server", "no table")
    assert runner.retry_until(attempt, time.monotonic() + 60, pause_seconds=0.0) == "done"
    assert capsys.readouterr() == ("", "waiting: no server\nwaiting: no table\n")


def test_a_retry_raises_the_last_error_after_the_deadline() -> None:
    with pytest.raises(StoreDownError, match="no table"):
        runner.retry_until(Flaky("no table"), time.monotonic() - 1, pause_seconds=0.0)


def test_a_retry_raises_other_errors_immediately() -> None:
    def refuse() -> None:
        raise RefusedError("refused")

    with pytest.raises(RefusedError):
        runner.retry_until(refuse, time.monotonic() + 60)
