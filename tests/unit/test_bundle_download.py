"""What a download takes from a source that is not trusted."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
from msgspec.structs import replace

from fraudops.canonical import canonical_json, sha256_bytes
from fraudops.errors import BundleError
from fraudops.model import bundle_download, manifest
from fraudops.model.bundle_download import download_files
from fraudops.model.manifest import MANIFEST, MAX_FILES, MAX_MANIFEST_BYTES
from tests.support.bundles import make_manifest, write_linear_bundle


@contextmanager
def opened(files: Mapping[str, bytes], read: list[str], name: str) -> Iterator[Iterator[bytes]]:
    """Yield a file in parts of 1,000 bytes, and note each part that is read."""
    yield parts(files[name], read, name)


def parts(data: bytes, read: list[str], name: str) -> Iterator[bytes]:
    for start in range(0, len(data), 1000):
        read.append(name)
        yield data[start : start + 1000]


def sealed(*names: str) -> tuple[dict[str, bytes], str]:
    """Return a source with a manifest of these names, and the manifest's digest."""
    data = canonical_json(replace(make_manifest(), files=dict.fromkeys(names, "0" * 64)))
    return {MANIFEST: data, **dict.fromkeys(names, b"x" * 3000)}, sha256_bytes(data)


def test_only_the_files_of_the_manifest_are_read(tmp_path: Path) -> None:
    files, digest = sealed("a.npy", "b.npy")
    read: list[str] = []
    download_files(partial(opened, files | {"junk.bin": b"junk"}, read), tmp_path / "new", digest)
    assert set(read) == {MANIFEST, "a.npy", "b.npy"}
    assert {path.name: path.read_bytes() for path in (tmp_path / "new").iterdir()} == files


def test_nothing_is_read_after_a_foreign_manifest(tmp_path: Path) -> None:
    files, _ = sealed("a.npy")
    read: list[str] = []
    with pytest.raises(BundleError, match="not the one that was registered"):
        download_files(partial(opened, files, read), tmp_path, "0" * 64)
    assert set(read) == {MANIFEST}


def test_the_bound_holds_for_all_files_together_and_stops_the_stream(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, digest = sealed("a.npy", "b.npy")
    monkeypatch.setattr(bundle_download, "MAX_BUNDLE_BYTES", 4500)
    read: list[str] = []
    with pytest.raises(BundleError, match=r"b\.npy is larger than the 1500 bytes"):
        download_files(partial(opened, files, read), tmp_path, digest)
    assert read.count("b.npy") == 2
    assert (tmp_path / "b.npy").stat().st_size == 1000


def test_a_huge_manifest_is_not_read_to_its_end(tmp_path: Path) -> None:
    read: list[str] = []
    files = {MANIFEST: b" " * (MAX_MANIFEST_BYTES + 5000)}
    with pytest.raises(BundleError, match=r"bundle\.json is larger than"):
        download_files(partial(opened, files, read), tmp_path, "0" * 64)
    assert len(read) * 1000 < MAX_MANIFEST_BYTES + 2000


@pytest.mark.parametrize("name", ["../admin.token", "/etc/passwd", ".hidden", "a/b", MANIFEST])
def test_a_manifest_with_a_name_that_is_no_file_of_a_bundle_is_refused(
    tmp_path: Path, name: str
) -> None:
    data = canonical_json(replace(make_manifest(), files={name: "0" * 64}))
    with pytest.raises(BundleError, match="names a file that no bundle has"):
        download_files(partial(opened, {MANIFEST: data}, []), tmp_path, sha256_bytes(data))


def test_a_manifest_with_too_many_files_is_refused(tmp_path: Path) -> None:
    files, digest = sealed(*(f"{index}.npy" for index in range(MAX_FILES + 1)))
    with pytest.raises(BundleError, match=f"at most {MAX_FILES} are allowed"):
        download_files(partial(opened, files, []), tmp_path, digest)


def test_a_bundle_that_no_pod_would_take_is_not_sealed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifest, "MAX_BUNDLE_BYTES", 100)
    with pytest.raises(BundleError, match="a pod takes at most 100: train with fewer rows"):
        write_linear_bundle(tmp_path)
    assert not (tmp_path / MANIFEST).exists()
