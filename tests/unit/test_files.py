"""Files that several processes share: atomic writes, locks, and durability."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from fraudops import files


class Named(msgspec.Struct):
    name: str


HOLDER = """
import sys, time
from pathlib import Path
from fraudops.files import locked
with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the synced files, in order; each is really synced."""
    names: list[str] = []
    fsync = os.fsync

    def noted(descriptor: int) -> None:
        names.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    return names


def test_a_failed_write_leaves_the_old_file_and_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    files.write_atomically(path, b"before")

    def fail_halfway() -> None:
        with files.atomic_file(path) as temporary:
            temporary.write_bytes(b"aft")
            assert path.read_bytes() == b"before"
            raise RuntimeError("half written")

    with pytest.raises(RuntimeError, match="half"):
        fail_halfway()
    assert {each.name: each.read_bytes() for each in tmp_path.iterdir()} == {"file": b"before"}


def test_a_durable_write_syncs_the_content_before_the_name(
    tmp_path: Path, synced: list[str]
) -> None:
    path = tmp_path / "file"
    files.write_atomically(path, b"content", durable=True)
    assert synced == [files.temporary_path(path).name, tmp_path.name]
    assert path.read_bytes() == b"content"


def test_a_write_that_need_not_survive_the_node_syncs_nothing(
    tmp_path: Path, synced: list[str]
) -> None:
    files.write_atomically(tmp_path / "file", b"content")
    assert synced == []


def test_only_its_owner_can_read_a_private_file(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"open to all")
    files.write_atomically(path, b"secret", private=True)
    assert (stat.S_IMODE(path.stat().st_mode), path.read_bytes()) == (0o600, b"secret")


def test_a_lock_is_refused_while_another_process_holds_it_and_free_after_its_death(
    tmp_path: Path,
) -> None:
    path = tmp_path / "folder" / "lock"
    command = [sys.executable, "-c", HOLDER, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with files.try_locked(path) as held:
            assert not held
        holder.kill()
        holder.wait(10)
        with files.try_locked(path) as held:
            assert held


def test_shared_locks_exclude_only_exclusive_ones(tmp_path: Path) -> None:
    with (tmp_path / "lock").open("w") as one, (tmp_path / "lock").open("w") as other:
        assert files.try_lock(one.fileno(), shared=True)
        assert files.try_lock(other.fileno(), shared=True)
        assert not files.try_lock(other.fileno())


def test_a_private_file_is_private_despite_a_temporary_file_of_a_crash(tmp_path: Path) -> None:
    """A container's process may get the pid of the process that crashed."""
    path = tmp_path / "secret"
    files.temporary_path(path).write_bytes(b"left by a crash")
    files.temporary_path(path).chmod(0o644)
    files.write_atomically(path, b"content", private=True)
    assert path.read_bytes() == b"content"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_that_is_not_utf8_counts_as_one_that_cannot_be_decoded(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b'{"name":"\xff"}')
    assert files.read_json(tmp_path / "file", Named) is None
