"""`reconcile --watch`: one process for many passes, over a real service, MLflow and PostgreSQL."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from jobs.reconcile import ALIVE
from tests.support.promotion_site import NO_DATABASE, PromotionSite, running_site
from tests.support.waiting import eventually

SECONDS = 30.0
UP_TO_DATE = "alias and rows match the serving record"


@pytest.fixture
def site(
    tmp_path: Path,
    mlflow_url: str,
    database: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[PromotionSite]:
    with running_site(tmp_path / "state", mlflow_url, database, monkeypatch, capsys) as site:
        yield site


@contextmanager
def watching(site: PromotionSite, log: Path, **changed: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run the watch, which writes to the log."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("FRAUDOPS_")}
    environment = {**own, **site.environment, **changed}
    command = [sys.executable, "-m", "jobs.reconcile", "--watch", "--every", "0.2"]
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, env=environment, stdout=output, stderr=subprocess.STDOUT
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()


def test_a_watch_outlives_a_store_that_is_down_and_follows_a_new_url(
    site: PromotionSite, tmp_path: Path
) -> None:
    log, url = tmp_path / "log", tmp_path / "url"
    url.write_text(NO_DATABASE["DATABASE_URL"])
    version = site.version(1)
    site.promote(version, **NO_DATABASE)
    alive = site.service.state.run / ALIVE

    with watching(site, log, DATABASE_URL=f"file:{url}") as process:

        def late() -> None:
            assert process.poll() is None, log.read_text()
            assert "not up to date: rows" in log.read_text()

        eventually(late, SECONDS)
        passes_go_on(alive)
        # Each pass has failed in the same way, and only the first one has said so.
        assert log.read_text().count("not up to date: rows") == 1

        url.write_text(site.environment["DATABASE_URL"])
        eventually(lambda: done(log, f"{UP_TO_DATE} (rows written: 1)"), SECONDS)
        assert site.rows == [("promote", "", version, "done")]
        eventually(lambda: done(log, f"{UP_TO_DATE}\n"), SECONDS)

        # A promotion takes the lock between two passes.
        site.promote(site.version(2))
        passes_go_on(alive)
        process.send_signal(signal.SIGTERM)
        assert process.wait(SECONDS) == 0
    assert "Traceback" not in log.read_text()


def passes_go_on(alive: Path) -> None:
    before = alive.stat().st_mtime_ns

    def later() -> None:
        assert alive.stat().st_mtime_ns > before

    eventually(later, SECONDS)


def done(log: Path, sentence: str) -> None:
    assert sentence in log.read_text(), log.read_text()


def test_a_wrong_setting_ends_a_watch(site: PromotionSite, tmp_path: Path) -> None:
    log = tmp_path / "log"
    with watching(site, log, MLFLOW_TRACKING_URI="not a URL") as process:
        assert process.wait(SECONDS) == 64
    assert "MLFLOW_TRACKING_URI must begin with" in log.read_text()
    both = site.run("reconcile", "--watch", "--json")
    assert (both.returncode, "only without --watch" in both.stderr) == (64, True)
