"""Key files after a crash of the machine: whatever a private key has signed can be verified."""

import os
from pathlib import Path

import pytest

from fraudops.files import temporary_path
from fraudops.signing.key_files import rotate_key
from fraudops.signing.keys import public_file


def test_the_public_half_is_on_the_disk_before_the_private_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced, fsync = list[str](), os.fsync

    def noted(descriptor: int) -> None:
        synced.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", noted)
    private, folder = tmp_path / "keys" / "verdict.pem", tmp_path / "public"
    key = rotate_key(private, folder, "verdict")
    public = folder / public_file("verdict", key.public)
    written = [temporary_path(path).name for path in (public, private)]
    assert synced == [written[0], "public", written[1], "keys"]
