"""Forged verdicts and waivers over a real service and registry: each is refused with its reason."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from fraudops.model.scorer import SCORER
from fraudops.promotion.serving_record import ServingRecord
from fraudops.registry import TAG_DIGEST, TAG_VERDICT
from fraudops.registry.verdicts import FOLDER, MAX_BYTES, read_signed, store_signed
from fraudops.signing.verdicts import VERDICT_FILE, SignedVerdict
from tests.support.http_client import HTTP
from tests.support.mlflow_runs import API, put
from tests.support.promotion_site import NO_REGISTRY, PromotionSite, running_site
from tests.support.signing import SIGNERS, Signers

FORCED = ("--force", "--reason", "the old one is on fire")


@pytest.fixture
def site(
    tmp_path: Path,
    mlflow_url: str,
    database: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Iterator[PromotionSite]:
    """Yield a site that serves version 1, and whose service fetches bundles from MLflow."""
    folder, registry = tmp_path / "state", {"MLFLOW_TRACKING_URI": mlflow_url}
    with running_site(folder, mlflow_url, database, monkeypatch, capsys, **registry) as site:
        site.promote(site.version(1))
        yield site


def refused(site: PromotionSite, version: str, reason: str, *more: str, **environment: str) -> None:
    """Promote the version, which must be refused with the reason and change nothing."""
    before = site.record
    result = site.run("promote", "--version", version, *more, **environment)
    assert result.returncode == 65, result.stderr
    assert reason in result.stderr
    after = site.record
    assert (after.current, after.stack, after.reserved) == (before.current, before.stack, None)
    assert site.served == ("1", 1)
    assert site.rows[-1][3] == "refused"


def signed_verdict(site: PromotionSite, version: str) -> SignedVerdict:
    signed = read_signed(site.registry, site.registry.version(version))
    assert signed is not None
    return signed


# -- verdicts


def test_the_one_rest_call_that_marks_a_refused_version_as_passed_changes_nothing(
    site: PromotionSite,
) -> None:
    version = site.version(2, validated=False)
    site.validate(version, passed=False)
    tag = site.registry.version(version).verdict or {}
    HTTP.post(
        f"{site.mlflow_url}{API}/mlflow/model-versions/set-tag",
        json={
            "name": site.registry.model,
            "version": version,
            "key": TAG_VERDICT,
            "value": json.dumps(tag | {"passed": True}),
        },
    ).raise_for_status()
    assert (site.registry.version(version).verdict or {})["passed"] is True
    refused(site, version, "version 2 did not pass validation (roc_auc)")


def test_a_tag_without_a_signed_verdict_is_no_verdict(site: PromotionSite) -> None:
    version = site.version(2, validated=False)
    tag = {"digest": site.registry.version(version).digest, "passed": True}
    site.registry.set_tag(version, TAG_VERDICT, json.dumps(tag))
    refused(site, version, "version 2 has no signed verdict")


def test_an_edited_verdict_is_refused(site: PromotionSite) -> None:
    version = site.version(2, validated=False)
    site.validate(version, passed=False)
    signed = signed_verdict(site, version)
    edited = signed.verdict.replace('"passed":false', '"passed":true')
    forged = SignedVerdict(verdict=edited, signature=signed.signature)
    store_signed(site.registry, site.registry.version(version), forged)
    for more in ((), FORCED):
        refused(site, version, "verdict.json has been altered", *more)


def test_a_huge_verdict_is_not_read(site: PromotionSite) -> None:
    version = site.version(2)
    run = site.registry.version(version).run_id
    put(site.mlflow_url, run, f"{FOLDER}/{VERDICT_FILE}", b" " * (MAX_BYTES + 1))
    refused(site, version, "verdict.json is larger than the 262144 bytes")


def test_the_verdict_of_another_bundle_is_refused(site: PromotionSite) -> None:
    version = site.version(2, validated=False)
    store_signed(site.registry, site.registry.version(version), signed_verdict(site, "1"))
    refused(site, version, "it is about the bundle")
    # Nor does it help to say that version 2 is the bundle of version 1.
    digest = str(site.registry.version("1").digest)
    site.registry.set_tag(version, TAG_DIGEST, digest)
    refused(site, version, "it is about version 1, not about version 2")


def test_a_verdict_by_an_unknown_key_is_refused(site: PromotionSite) -> None:
    version, foreign = site.version(2, validated=False), Signers.new()
    site.validate(version, key=foreign.verdict)
    key = foreign.verdict.public.id[:12]
    refused(site, version, f"signed by the key {key}, which this release does not trust")


def test_a_swapped_bundle_file_is_refused_by_the_pod(site: PromotionSite) -> None:
    version = site.version(2)
    found = site.registry.version(version)
    put(site.mlflow_url, found.run_id, f"bundle/{SCORER}", b'{"kind":"linear"}')
    # Else the pod would serve the right file of its cache.
    site.forget(version)
    refused(site, version, f"{SCORER} has been altered")


# -- waivers


def waiver_file(site: PromotionSite, text: str) -> dict[str, str]:
    """Return the environment of a promotion whose Job has written this waiver."""
    file = site.service.root / "waiver.json"
    file.write_text(text)
    return {"FRAUDOPS_WAIVER": str(file), "FRAUDOPS_REQUEST_ID": "request-2"}


def test_a_waiver_of_another_request_or_with_an_edit_or_too_old_is_refused(
    site: PromotionSite,
) -> None:
    version = site.version(2, validated=False)
    digest = str(site.registry.version(version).digest)
    about = {"model_name": site.registry.model}
    used = SIGNERS.waiver_for(version, digest, **about)
    expired = SIGNERS.waiver_for(version, digest, request="request-2", **about)
    payload = "it expired at 2026-03-01T11:00:00"
    forged = json.loads(used)
    envelope = forged["dsseEnvelope"]
    envelope["payload"] = json.loads(expired)["dsseEnvelope"]["payload"]
    for text, reason in (
        (used, "it is for the request request-1, not for request-2"),
        (json.dumps(forged), "its signature does not fit, so it has been altered"),
        (expired, payload),
        (Signers.new().waiver_for(version, digest), "which this release does not trust"),
    ):
        refused(site, version, reason, *FORCED, **waiver_file(site, text))


def test_a_waiver_is_signed_on_one_machine_and_can_be_forbidden(site: PromotionSite) -> None:
    version = site.version(2, validated=False)
    forbidden = {"FRAUDOPS_SIGNING__WAIVERS": "forbidden"}
    refused(site, version, "this installation forbids waivers", *FORCED, **forbidden)
    site.done("promote", "--version", version, *FORCED)
    entry = site.record.current
    assert entry is not None
    assert (entry.signed_verdict, entry.sample) == (None, True)
    assert "the old one is on fire" in site.done("promotions").stdout
    # The record's own waiver does not let the version in again.
    site.done("rollback")
    again = waiver_file(site, str(entry.signed_waiver))
    result = site.run("promote", "--version", version, *FORCED, **again)
    assert (result.returncode, "it is for the request" in result.stderr) == (65, True)


# -- the way back


def test_a_rollback_verifies_without_mlflow_and_postgresql(site: PromotionSite) -> None:
    site.promote(site.version(2))
    nowhere = NO_REGISTRY | {"DATABASE_URL": "postgresql://me:secret@127.0.0.1:9/fraudops"}
    result = site.run("rollback", **nowhere)
    assert result.returncode == 0, result.stderr
    assert site.served == ("1", 3)


def test_a_rollback_to_a_forged_entry_is_refused(site: PromotionSite) -> None:
    site.promote(site.version(2))

    def forge(record: ServingRecord) -> ServingRecord:
        (entry,) = record.stack
        other = Signers.new().signed_for(entry.version, entry.digest)
        return replace(record, stack=(replace(entry, signed_verdict=other),))

    site.change_record(forge)
    result = site.run("rollback")
    assert (result.returncode, "does not trust" in result.stderr) == (65, True)
    assert site.served == ("2", 2)


def test_what_release_0_2_0_promoted_serves_is_a_way_back_and_cannot_be_promoted(
    site: PromotionSite,
) -> None:
    second = site.version(2)
    site.promote(second)

    def as_0_2_0(record: ServingRecord) -> ServingRecord:
        (entry,) = record.stack
        return replace(record, stack=(replace(entry, signed_verdict=None, act="", verdict={}),))

    site.change_record(as_0_2_0)
    site.unsign("1")
    shown = json.loads(site.done("models", "--json").stdout)["versions"]
    assert [row["verdict"] for row in shown] == ["passed", "unsigned, from before"]
    result = site.done("rollback")
    assert "version 1 is unsigned, from before" in result.stderr
    assert site.served == ("1", 3)
    current = site.record.current
    assert current is not None
    assert current.unsigned
    site.promote(second)
    again = site.run("promote", "--version", "1")
    assert (again.returncode, "version 1 has no signed verdict" in again.stderr) == (65, True)


# -- `fraudops verify`


def test_verify_says_what_was_signed_by_which_key_and_when(site: PromotionSite) -> None:
    shown = site.done("verify", "1").stdout
    key = SIGNERS.verdict.public.id
    assert f"by the verdict key {key[:12]}, at 2026-03-01T10:00:00+00:00" in shown
    assert "verdict: passed" in shown
    assert "trained on: the packaged sample" in shown
    assert "bundle: whole: 3 files" in shown
    version = site.version(2, validated=False)
    site.validate(version, passed=False)
    found = json.loads(site.done("verify", "latest", "--json").stdout)
    assert (found["version"], found["passed"], found["signer"]) == (version, False, key)
    assert found["failed_gates"] == ["roc_auc"]


def test_verify_refuses_what_promote_refuses_and_names_a_swapped_file(site: PromotionSite) -> None:
    version = site.version(2, validated=False)
    result = site.run("verify", version)
    assert (result.returncode, "has no signed verdict" in result.stdout) == (65, True)
    assert "no valid signature proves it" in result.stderr
    site.validate(version, key=Signers.new().verdict)
    result = site.run("verify", version, "--json")
    assert "does not trust" in json.loads(result.stdout)["refused"]
    other = site.registry.model + "-other"
    named = SIGNERS.signed_for(
        version, str(site.registry.version(version).digest), model_name=other
    )
    store_signed(site.registry, site.registry.version(version), named)
    result = site.run("verify", version)
    assert (result.returncode, f"is about the model {other}" in result.stdout) == (65, True)
    site.validate(version)
    put(site.mlflow_url, site.registry.version(version).run_id, f"bundle/{SCORER}", b"{}")
    result = site.run("verify", version)
    assert (result.returncode, f"{SCORER} has been altered" in result.stdout) == (65, True)
    assert "its bundle is not whole" in result.stderr


def test_verify_shows_the_waiver_of_what_serves(site: PromotionSite) -> None:
    version = site.version(2, validated=False)
    site.validate(version, passed=False)
    site.done("promote", "--version", version, *FORCED)
    shown = site.done("verify", version).stdout
    assert "verdict: did not pass (roc_auc)" in shown
    key = SIGNERS.waiver.public.id
    assert f"waiver: signed by the waiver key {key[:12]}, at" in shown
    found = json.loads(site.done("verify", version, "--json").stdout)
    assert found["waiver_signer"] == key
    assert "the old one is on fire" in shown
