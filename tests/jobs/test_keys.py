"""`fraudops keys`: the keys of one machine, and of a release through a small API server."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from fraudops.signing.key_files import ensure_key
from fraudops.signing.keys import PublicKeys, public_file, read_private_key
from fraudops.state import State
from jobs import keys
from tests.support.commands import Caller, CommandResult
from tests.support.kubernetes_secrets import serve_objects
from tests.support.release_keys import KeysCommand, KeysOfRelease


@pytest.fixture
def run_keys(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> KeysCommand:
    return Caller("keys", keys.command, monkeypatch, capsys)


@pytest.fixture
def state(tmp_path: Path) -> State:
    """Return a state folder with the keys that `fraudops up` makes."""
    state = State.at(tmp_path / "state")
    ensure_key(state.verdict_key, state.public_keys, "verdict")
    ensure_key(state.waiver_key, state.public_keys, "waiver")
    return state


def listed(result: CommandResult) -> dict[str, tuple[str, bool]]:
    """Return purpose and `signs` of each key by its id."""
    assert result.returncode == 0, result.stderr
    return {row["id"]: (row["purpose"], row["signs"]) for row in json.loads(result.stdout)}


def test_rotate_and_retire_replace_a_key_of_this_machine(
    run_keys: KeysCommand, state: State
) -> None:
    here = ("--state", str(state.root))
    old, waiver = (read_private_key(path).public for path in (state.verdict_key, state.waiver_key))
    assert listed(run_keys("list", "--json", *here)) == {
        old.id: ("verdict", True),
        waiver.id: ("waiver", True),
    }
    refused = run_keys("retire", old.id[:8], *here)
    assert (refused.returncode, "signs now" in refused.stderr) == (65, True)

    rotated = run_keys("rotate", "verdict", *here)
    assert rotated.returncode == 0, rotated.stderr
    new = read_private_key(state.verdict_key).public
    assert f"the verdict key {new.id[:12]} signs from now on" in rotated.stdout
    assert f"fraudops keys retire {old.id[:12]} --state {state.root}`" in rotated.stderr
    assert {key.id for key in PublicKeys.read(state.public_keys).verdict} == {old.id, new.id}
    assert state.verdict_key.stat().st_mode & 0o777 == 0o600

    assert run_keys("retire", old.id[:12], *here).returncode == 0
    assert [key.id for key in PublicKeys.read(state.public_keys).verdict] == [new.id]
    assert listed(run_keys("list", "--json", *here)).keys() == {new.id, waiver.id}
    unknown = run_keys("retire", old.id[:12], *here)
    assert unknown.returncode == 64
    assert f"no key begins with '{old.id[:12]}'" in unknown.stderr


def test_a_lost_or_damaged_private_key_is_replaced_and_never_quoted(
    run_keys: KeysCommand, state: State
) -> None:
    here = ("--state", str(state.root))
    state.verdict_key.write_text("correct-horse")
    damaged = run_keys("list", *here)
    assert (damaged.returncode, "correct-horse" in damaged.stderr) == (64, False)
    rotated = run_keys("rotate", "verdict", *here)
    assert (rotated.returncode, "correct-horse" in rotated.stderr) == (0, False)
    state.verdict_key.unlink()
    hint = run_keys("list", *here).stderr
    assert "no key signs a verdict now" in hint
    assert "`fraudops keys rotate verdict --state" in hint
    assert not any(
        signs
        for purpose, signs in listed(run_keys("list", "--json", *here)).values()
        if purpose == "verdict"
    )
    assert run_keys("rotate", "verdict", *here).returncode == 0


def test_a_signing_key_without_its_public_half_is_marked(
    run_keys: KeysCommand, state: State
) -> None:
    for path in state.public_keys.glob("verdict*"):
        path.unlink()
    shown = run_keys("list", "--state", str(state.root))
    assert "signs now, is not valid" in shown.stdout
    # `up` adds it again.
    key = ensure_key(state.verdict_key, state.public_keys, "verdict")
    assert [found.id for found in PublicKeys.read(state.public_keys).verdict] == [key.public.id]


def test_a_folder_without_keys_says_who_makes_them(run_keys: KeysCommand, tmp_path: Path) -> None:
    result = run_keys("list", "--state", str(tmp_path))
    assert result.returncode == 64
    assert "give --state FOLDER. `fraudops up` makes the keys" in result.stderr


@pytest.fixture
def release(tmp_path: Path, run_keys: KeysCommand) -> Iterator[KeysOfRelease]:
    with serve_objects(tmp_path) as (stored, kubeconfig):
        yield KeysOfRelease(stored, run_keys, kubeconfig)


def test_rotate_and_retire_replace_a_key_of_a_release(release: KeysOfRelease) -> None:
    old, waiver = release.verdict.public, release.waiver.public
    assert listed(release.run("list", "--json", "--release", "shop")) == {
        old.id: ("verdict", True),
        waiver.id: ("waiver", True),
    }
    rotated = release.run("rotate", "verdict", "--release", "shop")
    assert rotated.returncode == 0, rotated.stderr
    assert "within two minutes" in rotated.stderr
    assert f"keys retire {old.id[:12]} --on-cluster`" in rotated.stderr
    new = release.private("verdict-key").public
    assert new != old
    # The public half is written before anything can be signed by the new key.
    first, second = release.stored.patches
    assert (first["stringData"].keys(), second["stringData"].keys()) == (
        {public_file("verdict", new)},
        {"key.pem"},
    )
    assert listed(release.run("list", "--json", "--release", "shop")) == {
        old.id: ("verdict", False),
        new.id: ("verdict", True),
        waiver.id: ("waiver", True),
    }
    assert release.run("retire", new.id[:12], "--release", "shop").returncode == 65
    assert release.run("retire", old.id[:12], "--release", "shop").returncode == 0
    assert release.stored.values("shop-public-keys").keys() == {
        public_file("verdict", new),
        public_file("waiver", waiver),
    }
    assert "PRIVATE" not in rotated.stdout + rotated.stderr


def test_a_key_that_the_operator_keeps_is_not_replaced(release: KeysOfRelease) -> None:
    release.cronjob("validate", "verdict-key", prefix="own")
    result = release.run("rotate", "verdict", "--release", "shop")
    assert result.returncode == 64
    assert "signing.verdictKey.existingSecret" in result.stderr
    assert release.stored.patches == []


def test_a_release_that_forbids_waivers_has_no_waiver_key(release: KeysOfRelease) -> None:
    release.cronjob("promote", "public-keys")
    result = release.run("rotate", "waiver", "--release", "shop")
    assert result.returncode == 64
    assert "forbids every waiver" in result.stderr
