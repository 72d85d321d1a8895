"""`fraudops keys retire` refuses a key that production needs, unless the key has leaked."""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from fraudops.promotion.local import FileRecordStore
from fraudops.promotion.serving_record import (
    CONFIG_MAP_KEY,
    ModelRef,
    Reservation,
    ServingEntry,
    ServingRecord,
    config_map_name,
)
from fraudops.signing.keys import PrivateKey, PublicKeys, new_key, public_file
from fraudops.state import State
from jobs import keys
from tests.support.commands import Caller
from tests.support.kubernetes_secrets import serve_objects
from tests.support.release_keys import KeysCommand, KeysOfRelease
from tests.support.signing import Signers

OLD, NEW = Signers.new(), Signers.new()
ID = OLD.verdict.public.id[:12]
WAIVER_ID = OLD.waiver.public.id[:12]
RECORD_MAP = f"configmaps/{config_map_name('shop')}"


def model(version: str, signers: Signers, waived: bool = False) -> ModelRef:
    """Return a version with a verdict; a waived one has failed, and has a waiver too."""
    digest = version * 64
    return ModelRef(
        version=version,
        digest=digest,
        schema_fingerprint="f" * 64,
        signed_verdict=signers.signed_for(version, digest, passed=not waived),
        signed_waiver=OLD.waiver_for(version, digest) if waived else None,
    )


def entry(version: str, signers: Signers, waived: bool = False) -> ServingEntry:
    fields = model(version, signers, waived).model_fields()
    return ServingEntry(**fields, epoch=int(version), by="a request", at="then", act="promote")


def record(current: ServingEntry, *stack: ServingEntry) -> ServingRecord:
    return ServingRecord(current=current, stack=stack, alias_epoch=current.epoch)


@pytest.fixture
def run_keys(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> KeysCommand:
    return Caller("keys", keys.command, monkeypatch, capsys)


class KeysOfMachine:
    """A state folder whose keys were rotated: both are valid, and the new ones sign."""

    def __init__(self, state: State, run_keys: KeysCommand) -> None:
        self.state, self._run = state, run_keys
        OLD.write_public(state.public_keys)
        NEW.write_keys(state)
        for purpose, key in (("verdict", NEW.verdict), ("waiver", NEW.waiver)):
            (state.public_keys / f"{purpose}-new.pem").write_bytes(key.public.pem)
        self.store = FileRecordStore(state.serving_record)

    def serve(self, wanted: ServingRecord) -> None:
        self.store.compare_and_set(wanted, self.store.read()[1])

    def retire(self, *arguments: str) -> tuple[int, str]:
        """Return the exit code, and what was said on one line."""
        result = self._run("retire", *arguments, "--state", str(self.state.root))
        return result.returncode, " ".join((result.stdout + result.stderr).split())

    def trusts(self, key: PrivateKey) -> bool:
        found = PublicKeys.read(self.state.public_keys)
        return key.public.id in {each.id for each in (*found.verdict, *found.waiver)}


@pytest.fixture
def machine(tmp_path: Path, run_keys: KeysCommand) -> KeysOfMachine:
    return KeysOfMachine(State.at(tmp_path / "state"), run_keys)


def test_a_key_that_signed_what_serves_stays(machine: KeysOfMachine) -> None:
    machine.serve(record(entry("2", OLD), entry("1", NEW)))
    code, said = machine.retire(ID)
    assert (code, machine.trusts(OLD.verdict)) == (65, True), said
    assert f"the verdict key {ID} signed a verdict of version 2 (it serves)." in said
    where = f" --state {machine.state.root}`"
    assert f"`fraudops validate --version 2{where}" in said
    assert f"`fraudops promote --version 2{where} (or" in said
    assert "--leaked" in said


def test_a_key_that_signed_the_way_back_stays(machine: KeysOfMachine) -> None:
    # A second entry of what serves is no way back, so the rollback takes version 1.
    machine.serve(record(entry("2", NEW), entry("2", NEW), entry("1", OLD)))
    code, said = machine.retire(ID)
    assert (code, machine.trusts(OLD.verdict)) == (65, True), said
    assert "of version 1 (the way back of a rollback)." in said
    # What serves is promoted last, or version 1 would serve at the end.
    assert "promote --version 1" in said
    assert "then the same for version 2" in said


def test_the_message_names_all_versions_that_need_the_key(machine: KeysOfMachine) -> None:
    reserved = Reservation(
        **model("3", OLD).model_fields(), epoch=3, by="x", at="now", strategy="broadcast"
    )
    wanted = record(entry("2", OLD), entry("1", OLD))
    machine.serve(msgspec.structs.replace(wanted, reserved=reserved))
    code, said = machine.retire(ID)
    assert code == 65
    assert (
        "version 2 (it serves), version 1 (the way back of a rollback) and version 3 (it is being "
        "promoted now)"
    ) in said
    machine.serve(msgspec.structs.replace(record(entry("2", NEW)), reserved=reserved))
    code, said = machine.retire(ID)
    assert (code, machine.trusts(OLD.verdict)) == (65, True)
    assert "First wait until the promotion under way has ended. Then run this command again" in said


def test_older_entries_only_warn(machine: KeysOfMachine) -> None:
    machine.serve(record(entry("4", NEW), entry("3", NEW), entry("4", OLD), entry("2", OLD)))
    code, said = machine.retire(ID)
    assert (code, machine.trusts(OLD.verdict)) == (0, False), said
    assert "where they reach version 4, 2, which this key signed" in said


def test_a_waiver_key_stays_while_a_waived_version_serves(machine: KeysOfMachine) -> None:
    machine.serve(record(entry("2", NEW, waived=True)))
    code, said = machine.retire(WAIVER_ID)
    assert (code, machine.trusts(OLD.waiver)) == (65, True), said
    assert f"the waiver key {WAIVER_ID} signed a waiver of version 2 (it serves)" in said
    assert "`fraudops promote --version 2 --force --reason TEXT" in said
    machine.serve(record(entry("3", NEW), entry("1", NEW)))
    assert machine.retire(WAIVER_ID)[0] == 0
    assert not machine.trusts(OLD.waiver)


def test_only_the_way_back_gets_a_new_waiver_if_what_serves_needs_none(
    machine: KeysOfMachine,
) -> None:
    machine.serve(record(entry("2", NEW), entry("1", NEW, waived=True)))
    code, said = machine.retire(WAIVER_ID)
    assert code == 65
    words = " ".join(said.split())
    assert "`fraudops promote --version 1 --force --reason TEXT" in words
    assert ", then `fraudops promote --version 2 " in words


def test_what_release_0_2_0_promoted_needs_no_key(machine: KeysOfMachine) -> None:
    unsigned = msgspec.structs.replace(entry("2", OLD), signed_verdict=None, unsigned=True)
    machine.serve(record(unsigned))
    assert machine.retire(ID)[0] == 0


def test_a_leaked_key_is_retired_with_a_warning(machine: KeysOfMachine) -> None:
    machine.serve(record(entry("2", OLD), entry("1", OLD)))
    code, said = machine.retire(ID, "--leaked")
    assert (code, machine.trusts(OLD.verdict)) == (0, False), said
    assert "pods that start and rollbacks refuse them" in said
    assert "Now let another key sign: `fraudops validate --version 1" in said


def test_a_key_that_signs_now_is_not_retired_even_if_it_has_leaked(machine: KeysOfMachine) -> None:
    code, said = machine.retire(NEW.verdict.public.id[:12], "--leaked")
    assert (code, "fraudops keys rotate verdict" in said) == (65, True)


def test_without_the_record_only_a_leaked_key_is_retired(machine: KeysOfMachine) -> None:
    machine.state.serving_record.mkdir()
    code, said = machine.retire(ID)
    assert (code, machine.trusts(OLD.verdict)) == (75, True), said
    assert "the serving record cannot be read" in said
    assert "A key that has leaked can be retired now, with --leaked" in said
    code, said = machine.retire(ID, "--leaked")
    assert (code, machine.trusts(OLD.verdict)) == (0, False), said
    assert "are unknown: the serving record" in said


@pytest.fixture
def release(tmp_path: Path, run_keys: KeysCommand) -> Iterator[KeysOfRelease]:
    """Yield a release in which the keys OLD are valid, and newer ones sign."""
    with serve_objects(tmp_path) as (stored, kubeconfig):
        found = KeysOfRelease(stored, run_keys, kubeconfig)
        public = {
            public_file("verdict", key.public): key.public.pem.decode()
            for key in (found.verdict, OLD.verdict)
        }
        found.secret("public-keys", public)
        yield found


def test_a_release_keeps_the_key_of_what_serves(release: KeysOfRelease) -> None:
    release.record(record(entry("2", OLD)))
    refused = release.run("retire", ID, "--release", "shop")
    assert refused.returncode == 65, refused.stderr
    assert "`fraudops promote --version 2 --on-cluster`" in refused.stderr
    assert release.stored.patches == []
    assert release.run("retire", ID, "--leaked", "--release", "shop").returncode == 0
    assert release.stored.values("shop-public-keys").keys() == {
        public_file("verdict", release.verdict.public)
    }


@pytest.mark.parametrize("damaged", [None, "{"])
def test_a_release_without_a_readable_record_keeps_the_key(
    release: KeysOfRelease, damaged: str | None
) -> None:
    if damaged is None:
        del release.stored.objects[RECORD_MAP]
    else:
        release.stored.objects[RECORD_MAP]["data"] = {CONFIG_MAP_KEY: damaged}
    refused = release.run("retire", ID, "--release", "shop")
    assert refused.returncode == 75, refused.stderr
    assert "are unknown: the " in refused.stderr
    assert release.stored.patches == []
    assert release.run("retire", ID, "--leaked", "--release", "shop").returncode == 0


def test_an_operator_who_keeps_the_keys_gets_the_name_of_the_file(release: KeysOfRelease) -> None:
    release.cronjob("promote", "waiver-key", "public-keys", prefix="own")
    release.stored.objects["secrets/own-public-keys"] = release.stored.objects[
        "secrets/shop-public-keys"
    ]
    release.stored.objects["secrets/own-waiver-key"] = release.stored.objects[
        "secrets/shop-waiver-key"
    ]
    release.record(record(entry("2", OLD)))
    assert release.run("retire", ID, "--release", "shop").returncode == 65
    release.record(record(entry("2", Signers(release.verdict, new_key()))))
    own = release.run("retire", ID, "--release", "shop")
    assert own.returncode == 64, own.stderr
    assert f"Remove {public_file('verdict', OLD.verdict.public)} there" in own.stderr
