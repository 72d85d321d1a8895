"""`promote`, `rollback`, `reconcile`, `models` and `promotions` over a real service and registry.

Each test has its own service, model and database.
"""

import asyncio
import json
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fraudops.errors import FraudopsError, StoreDownError
from fraudops.promotion.admin_client import PodAdminClient
from fraudops.promotion.local import FileLock
from fraudops.promotion.requester import Requester
from fraudops.promotion.serving_record import EMPTY
from fraudops.registry import Registry
from fraudops.settings import PromoteJobSettings
from fraudops.state import State
from jobs import promote
from jobs.promote import PromotionGate, PromotionOptions
from services.supervisor.status import report
from tests.support.http_client import HTTP
from tests.support.promotion_site import (
    NO_DATABASE,
    NO_REGISTRY,
    PromotionSite,
    running_site,
)
from tests.support.signing import SIGNERS


@pytest.fixture
def site(
    tmp_path: Path,
    mlflow_url: str,
    database: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[PromotionSite]:
    """Yield a site with a running service that has no model yet."""
    with running_site(tmp_path / "state", mlflow_url, database, monkeypatch, capsys) as site:
        yield site


# -- the gate, waivers and epochs


async def test_the_event_loop_goes_on_while_the_registry_does_not_answer(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        registry = Registry(f"http://127.0.0.1:{silent.getsockname()[1]}", timeout_seconds=30)
        gate = PromotionGate(
            registry,
            PromoteJobSettings(),
            State.at(tmp_path),
            PromotionOptions("3"),
            Requester("ada", "ada"),
            "request-1",
            SIGNERS.public,
        )
        deciding = asyncio.create_task(gate.decide(EMPTY))
        # The gate's request has arrived and waits. A gate on the loop would block it here.
        connection, _ = await asyncio.wait_for(asyncio.to_thread(silent.accept), 20)
        assert not deciding.done()
        connection.close()
        with pytest.raises(StoreDownError, match="does not answer"):
            await deciding


def test_a_waiver_belongs_to_one_promotion_and_a_refused_one_leaves_none(
    site: PromotionSite,
) -> None:
    site.promote(site.version(1))
    version = site.version(2, validated=False)
    before = site.registry.version(version)
    forced = ("promote", "--version", version, "--force", "--reason", "the old one is on fire")
    assert site.run(*forced, "--if-epoch", "9").returncode == 65
    plain = site.run("promote", "--version", version)
    assert (plain.returncode, "has no signed verdict" in plain.stderr) == (65, True)

    site.done(*forced)
    assert site.record.current is not None
    waiver = site.record.current.waiver or {}
    assert (waiver["reason"], waiver["digest"]) == ("the old one is on fire", before.digest)
    assert site.registry.version(version).tags == before.tags
    shown = json.loads(site.done("models", "--json").stdout)["versions"]
    assert [(row["version"], row["verdict"], row["back"]) for row in shown] == [
        (version, "waived", None),
        ("1", "passed", 1),
    ]

    site.done("rollback")
    again = site.run("promote", "--version", version)
    assert (again.returncode, "has no signed verdict" in again.stderr) == (65, True)
    history = json.loads(site.done("promotions", "--json").stdout)["promotions"]
    assert [row["waiver_reason"] for row in history] == [
        None,
        None,
        "the old one is on fire",
        None,
        None,
        None,
    ]


def test_if_epoch_refuses_an_act_that_was_decided_on_another_record(site: PromotionSite) -> None:
    first, second = site.version(1), site.version(2)
    assert site.run("promote", "--version", first, "--if-epoch", "-1").returncode == 64
    site.promote(first, "--if-epoch", "0")
    site.promote(second, "--if-epoch", "1")
    record = site.record
    for refused in (
        site.run("promote", "--version", first, "--if-epoch", "0"),
        site.run("rollback", "--if-epoch", "1"),
    ):
        assert refused.returncode == 65
        assert "the serving record is at epoch 2, where version 2 serves" in refused.stderr
        assert "Nothing has changed: version 2 serves (epoch 2)" in refused.stderr
    assert site.record == record
    site.done("rollback", "--if-epoch", "2")
    assert site.served == (first, 3)
    assert site.rows[-3:] == [
        ("promote", "2", "1", "refused"),
        ("rollback", "2", "", "refused"),
        ("rollback", "2", "1", "done"),
    ]


def test_a_rollback_to_another_schema_says_that_clients_must_change_their_requests(
    site: PromotionSite,
) -> None:
    first, second = site.version(1), site.version(2, bank=True)
    site.promote(first)
    site.validate(second)
    refused = site.run("promote", "--version", second)
    assert (refused.returncode, "--strategy rollout" in refused.stderr) == (65, True)
    site.promote(second, "--strategy", "rollout")
    result = site.done("rollback", "--json")
    assert "version 1 reads other columns than version 2: on one machine" in result.stderr
    assert "clients must change their requests" in result.stderr
    answer = json.loads(result.stdout)
    assert (answer["act"], answer["version"], answer["behind"]) == ("rollback", "1", [])
    history = json.loads(site.done("promotions", "--json").stdout)["promotions"]
    assert (history[0]["act"], history[0]["strategy"]) == ("rollback", "rollout")


def test_progress_names_the_pods(site: PromotionSite) -> None:
    progress = site.promote(site.version(1)).stderr
    assert "prepared on local" in progress


def test_a_pod_that_cannot_fetch_the_bundle_at_first_is_called_again(site: PromotionSite) -> None:
    first, second = site.version(1), site.version(2)
    site.promote(first)
    site.validate(second)
    # The service has no registry, so it answers 503 while its cache lacks the bundle.
    shutil.rmtree(site.service.state.bundles / str(site.registry.version(second).digest))
    prepare, answers = PodAdminClient.prepare, list[str]()

    async def prepare_and_then_fetch(*arguments: Any) -> None:
        try:
            await prepare(*arguments)
        except FraudopsError as error:
            answers.append(str(error))
            site.validate(second)
            raise

    site.monkeypatch.setattr(PodAdminClient, "prepare", prepare_and_then_fetch)
    site.done("promote", "--version", second)
    assert (len(answers), "cannot be fetched" in answers[0]) == (1, True)
    assert (site.served, site.rows[-1]) == ((second, 2), ("promote", "1", "2", "done"))


# -- versions that were deleted in the registry


def test_a_promotion_away_from_a_deleted_version_drops_its_alias_and_succeeds(
    site: PromotionSite,
) -> None:
    first, second = site.version(1), site.version(2)
    site.promote(first)
    site.validate(second)
    site.delete(first)
    result = site.done("promote", "--version", second)
    assert "version 2 serves on every worker" in result.stdout
    assert "version 1, the way back, is no longer in the registry" in result.stderr
    assert (site.aliases, site.served) == ((second, None), (second, 2))
    assert site.rows[-1] == ("promote", "1", "2", "done")
    reconciled = site.done("reconcile")
    assert "version 1, the way back, is no longer in the registry" in reconciled.stdout
    shown = site.done("models")
    assert "(deleted)" in shown.stdout
    assert "is no longer in the registry" in shown.stderr


def test_a_version_that_must_be_compared_with_a_deleted_one_needs_a_waiver(
    site: PromotionSite,
) -> None:
    first, second = site.version(1), site.version(2)
    site.promote(first)
    site.delete(first)
    refused = site.run("promote", "--version", second)
    assert refused.returncode == 65
    site.validate(second)  # puts its bundle into the cache
    assert "no longer has that version to compare with" in refused.stderr
    site.done("promote", "--version", second, "--force", "--reason", "version 1 is deleted")


def test_a_rollback_to_a_deleted_version_serves_it_and_says_that_it_has_no_alias(
    site: PromotionSite,
) -> None:
    first, second = site.version(1), site.version(2)
    site.promote(first)
    site.promote(second)
    site.delete(first)
    result = site.done("rollback")
    assert "version 1 serves again on every worker" in result.stdout
    assert "version 1, which serves, is no longer in the registry" in result.stderr
    assert (site.aliases, site.served) == ((None, None), (first, 3))
    assert site.rows[-1] == ("rollback", "2", "1", "done")
    for _ in range(2):
        reconciled = json.loads(site.done("reconcile", "--json").stdout)
        assert reconciled["late"] == []
        assert "is no longer in the registry" in reconciled["alias"]
    shown = json.loads(site.done("models", "--json").stdout)
    pod = HTTP.get(f"{site.service.url}/model_info", timeout=5).json()["errors"]
    for alias in (shown["alias"], report(site.service.state)["alias"], pod["alias"]):
        assert "version 1, which serves, is no longer in the registry" in alias
    assert [(row["version"], row["serving"], row["deleted"]) for row in shown["versions"]] == [
        ("2", False, False),
        ("1", True, True),
    ]


def test_a_target_that_is_deleted_during_its_promotion_serves_and_its_row_is_done(
    site: PromotionSite,
) -> None:
    first, second = site.version(1), site.version(2)
    site.promote(first)
    said = promote.say

    def delete_after_the_reservation(text: str) -> None:
        said(text)
        if text.startswith("reserved epoch"):
            site.delete(second)

    site.monkeypatch.setattr(promote, "say", delete_after_the_reservation)
    result = site.promote(second)
    assert "version 2, which serves, is no longer in the registry" in result.stderr
    assert (site.aliases, site.served) == ((None, first), (second, 2))
    assert site.rows[-1] == ("promote", "1", "2", "done")


def test_a_deleted_target_is_unknown_and_nothing_has_changed(site: PromotionSite) -> None:
    first, second = site.version(1), site.version(2)
    site.promote(first)
    site.delete(second)
    before = site.record
    result = site.run("promote", "--version", second)
    assert (result.returncode, "known are 1 " in result.stderr) == (64, True)
    assert site.record == before


# -- without PostgreSQL and without MLflow


def test_rows_of_acts_without_postgresql_are_listed_and_written_by_the_reconciler(
    site: PromotionSite,
) -> None:
    first, second = site.version(1), site.version(2)
    site.promote(first)
    late = site.promote(second, **NO_DATABASE)
    assert "late: the row in promotions: the serving record keeps it" in late.stderr
    assert site.run("rollback", **NO_DATABASE).returncode == 0
    refused = site.run("promote", "--version", second, "--if-epoch", "1", **NO_DATABASE)
    assert refused.returncode == 65
    # Neither the second version nor the refused act is named by the record's entries.
    assert [entry.version for entry in site.record.stack] == []

    listed = site.run("promotions", **NO_DATABASE)
    assert listed.returncode == 75
    assert listed.stdout.count("not written to PostgreSQL yet") == 3
    assert "PostgreSQL at 127.0.0.1:9/fraudops does not answer" in listed.stderr
    assert "secret" not in listed.stderr
    both = json.loads(site.done("promotions", "--json").stdout)
    assert [(row["to_version"], row["written"]) for row in both["promotions"]] == [
        ("2", False),
        ("1", False),
        ("2", False),
        ("1", True),
    ]
    assert site.run("reconcile", **NO_DATABASE).returncode == 75
    assert "(rows written: 3)" in site.done("reconcile").stdout
    assert site.rows == [
        ("promote", "", "1", "done"),
        ("promote", "1", "2", "done"),
        ("rollback", "2", "1", "done"),
        ("promote", "1", "2", "refused"),
    ]
    assert "not written to" not in site.done("promotions").stdout
    assert site.done("reconcile").stdout == "alias and rows match the serving record\n"


def test_without_the_registry_a_rollback_is_late_and_the_reconciler_writes_the_alias(
    site: PromotionSite,
) -> None:
    first, second = site.version(1), site.version(2)
    site.promote(first)
    site.promote(second)
    result = site.done("rollback", **NO_REGISTRY)
    assert "late: the registry's alias: the reconciler writes it when MLflow" in result.stderr
    assert site.aliases == (second, first)
    unfinished = site.run("reconcile", **NO_REGISTRY)
    assert (unfinished.returncode, "not up to date: alias" in unfinished.stderr) == (75, True)
    site.done("reconcile")
    # There is no way back any more, so champion is dropped.
    assert site.aliases == (first, None)


def test_the_reconciler_leaves_a_promotion_under_way_alone(
    site: PromotionSite,
) -> None:
    site.promote(site.version(1))

    async def reconcile_meanwhile() -> Any:
        lock = FileLock(site.service.state.locks / "promotion.lock")
        async with lock.hold("request-7"):
            return await asyncio.to_thread(site.run, "reconcile")

    result = asyncio.run(reconcile_meanwhile())
    assert result.returncode == 0
    assert "a promotion is under way (request-7, process" in result.stdout
    assert "it finishes its own work" in result.stdout
    assert not (site.service.state.run / "reconcile.json").exists()


def test_the_reconciler_writes_the_rows_that_release_0_2_0_left_in_a_file(
    site: PromotionSite,
) -> None:
    site.promote(site.version(1))
    file = site.service.state.root / "promotions.pending"
    attempt = {
        "request": "an-old-request",
        "requested_by": "ada",
        "strategy": "broadcast",
        "at": "2026-01-01T10:00:00.000+00:00",
        "version": "9",
        "digest": "d" * 64,
        "from_version": "8",
        "epoch": 9,
        "outcome": "failed",
        "reason": "not confirmed by a, b",
    }
    row = {"attempt": attempt, "finished_at": "2026-01-01T10:00:05.000+00:00"}
    file.write_text(json.dumps(row) + "\n")
    away = site.run("reconcile", **NO_DATABASE)
    assert (away.returncode, "not up to date: rows;" in away.stderr) == (75, True)
    assert file.exists()
    assert "(rows written: 1)" in site.done("reconcile").stdout
    assert file.read_bytes() == b""
    assert site.rows[0] == ("promote", "8", "9", "failed")


def test_before_the_first_promotion_the_history_says_how_to_begin(site: PromotionSite) -> None:
    empty = site.done("promotions")
    assert empty.stdout.startswith("No promotion is recorded yet.")
    assert "fraudops promote --version latest" in empty.stdout
    answer = json.loads(site.done("promotions", "--json").stdout)
    assert (answer["complete"], answer["promotions"]) == (True, [])


def test_the_history_shows_who_and_why_the_newest_first(site: PromotionSite) -> None:
    first = site.version(1)
    site.promote(first)
    site.run("promote", "--version", first, "--if-epoch", "7")
    site.done("promote", "--version", first)
    history = json.loads(site.done("promotions", "--limit", "2", "--json").stdout)["promotions"]
    assert [(row["act"], row["outcome"]) for row in history] == [
        ("promote", "done"),
        ("promote", "refused"),
    ]
    assert history[0]["reason"] == "already in production"
    assert "epoch 1" in history[1]["reason"]
    assert all(row["requested_by"] and row["seconds"] >= 0 for row in history)
    # On one machine nothing proves the name.
    assert all(row["actor"] == row["requested_by"] for row in history)
    assert {(row["authenticated"], row["approver"]) for row in history} == {(False, None)}
    lines = site.done("promotions").stdout.splitlines()
    assert "promote 1 → 1 by broadcast, requested by " in lines[0]
    signer = f"    verdict signed by key {SIGNERS.verdict.public.id[:12]}"
    assert lines[1:3] == ["    already in production", signer]
    assert lines[4].startswith("    the serving record is at epoch 1, where version 1 serves")
    # The refused act has named no verdict, and the first one has no reason.
    assert (len(lines), lines[6]) == (7, signer)
    assert [row["signer"] for row in history] == [SIGNERS.verdict.public.id, None]
