"""Downloads of the official file from real local servers, healthy and faulty."""

import fcntl
import hashlib
import io
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from fraudops.datasets.official import MIRRORS, NAME, SHA256, Mirror, fetch
from fraudops.errors import SettingsError, StoreDownError
from tests.support.file_server import Served, serve
from tests.support.processes import free_port

CONTENT = bytes(range(256)) * 5000
CHECKSUM = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def good() -> Iterator[Served]:
    with serve(Served(CONTENT)) as served:
        yield served


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "data" / NAME


def dead() -> Mirror:
    return Mirror(f"http://127.0.0.1:{free_port()}/creditcard.csv")


def left(target: Path) -> list[str]:
    return sorted(path.name for path in target.parent.iterdir())


def test_three_mirrors_are_known_on_three_hosts_and_the_checksum_is_the_official_one() -> None:
    assert len({mirror.url.split("/")[2] for mirror in MIRRORS}) == 3
    assert SHA256 == "76274b691b16a6c49d3f159c883398e03ccd6d1ee12d9d8ee38f4b4b98551a89"


def test_the_file_arrives_complete_and_progress_is_reported(good: Served, target: Path) -> None:
    reports: list[tuple[int, int | None]] = []
    assert (
        fetch(
            target,
            (Mirror.at(good.url),),
            CHECKSUM,
            lambda done, total: reports.append((done, total)),
        )
        == good.url
    )
    assert target.read_bytes() == CONTENT
    assert left(target) == [NAME]
    assert reports[-1] == (len(CONTENT), len(CONTENT))
    assert len(reports) > 1


def test_an_existing_file_is_not_fetched_again(good: Served, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(CONTENT)
    assert fetch(target, (Mirror.at(good.url),), CHECKSUM) is None
    assert good.ranges == []


def test_another_file_in_its_place_is_not_overwritten(good: Served, target: Path) -> None:
    target.parent.mkdir()
    target.write_bytes(b"my own rows")
    with pytest.raises(SettingsError, match="remove it, or choose another --out"):
        fetch(target, (Mirror.at(good.url),), CHECKSUM)
    assert target.read_bytes() == b"my own rows"


def test_a_dead_mirror_and_one_that_refuses_are_passed_over(good: Served, target: Path) -> None:
    with serve(Served(b"", status=404)) as absent:
        assert (
            fetch(target, (dead(), Mirror.at(absent.url), Mirror.at(good.url)), CHECKSUM)
            == good.url
        )


def test_a_broken_download_is_resumed_by_the_next_mirror(good: Served, target: Path) -> None:
    with serve(Served(CONTENT, break_after=300_000)) as broken:
        assert fetch(target, (Mirror.at(broken.url), Mirror.at(good.url)), CHECKSUM) == good.url
    assert good.ranges == ["bytes=300000-"]
    assert target.read_bytes() == CONTENT


def test_a_broken_download_is_resumed_by_the_next_attempt(target: Path) -> None:
    with serve(Served(CONTENT, break_after=300_000)) as served:
        with pytest.raises(StoreDownError, match="broke off after 300,000 bytes"):
            fetch(target, (Mirror.at(served.url),), CHECKSUM)
        assert left(target) == [f"{NAME}.part"]
        served.break_after = None
        fetch(target, (Mirror.at(served.url),), CHECKSUM)
        assert served.ranges == [None, "bytes=300000-"]
    assert target.read_bytes() == CONTENT


def test_a_mirror_without_ranges_sends_the_whole_file_again(target: Path) -> None:
    target.parent.mkdir()
    target.with_name(f"{NAME}.part").write_bytes(b"x" * 1000)
    with serve(Served(CONTENT, ranged=False)) as served:
        fetch(target, (Mirror.at(served.url),), CHECKSUM)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("part", [b"x" * 1000, CONTENT + b"too much"])
def test_a_wrong_partial_file_is_discarded_and_fetched_again(
    good: Served, target: Path, part: bytes
) -> None:
    target.parent.mkdir()
    target.with_name(f"{NAME}.part").write_bytes(part)
    fetch(target, (Mirror.at(good.url),), CHECKSUM)
    assert target.read_bytes() == CONTENT
    assert good.ranges == [f"bytes={len(part)}-", None]


def test_a_download_that_is_complete_but_unchecked_needs_no_second_one(
    good: Served, target: Path
) -> None:
    target.parent.mkdir()
    target.with_name(f"{NAME}.part").write_bytes(CONTENT)
    fetch(target, (Mirror.at(good.url),), CHECKSUM)
    assert good.ranges == [f"bytes={len(CONTENT)}-"]
    assert left(target) == [NAME]


def test_a_wrong_checksum_leaves_nothing_behind(target: Path) -> None:
    with (
        serve(Served(CONTENT[:-1] + b"!")) as wrong,
        pytest.raises(StoreDownError, match=f"does not have the checksum {CHECKSUM[:12]}"),
    ):
        fetch(target, (Mirror.at(wrong.url),), CHECKSUM)
    assert left(target) == []


def test_a_wrong_mirror_does_not_spoil_the_next(good: Served, target: Path) -> None:
    with serve(Served(CONTENT[:-1] + b"!")) as wrong:
        assert fetch(target, (Mirror.at(wrong.url), Mirror.at(good.url)), CHECKSUM) == good.url
    assert target.read_bytes() == CONTENT


def test_a_login_page_does_not_destroy_the_partial_file(target: Path) -> None:
    target.parent.mkdir()
    part = target.with_name(f"{NAME}.part")
    part.write_bytes(CONTENT[:500])
    with (
        serve(
            Served(b"<html>log in</html>", ranged=False, content_type="text/html; charset=utf-8")
        ) as portal,
        pytest.raises(StoreDownError, match="a web page"),
    ):
        fetch(target, (Mirror.at(portal.url),), CHECKSUM)
    assert part.read_bytes() == CONTENT[:500]


def _archive(name: str) -> bytes:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr(name, CONTENT)
    return archive.getvalue()


def test_a_zip_archive_is_unpacked(target: Path) -> None:
    with serve(Served(_archive(NAME)), "/archive.zip") as served:
        fetch(target, (Mirror.at(served.url),), CHECKSUM)
    assert target.read_bytes() == CONTENT
    assert left(target) == [NAME]


@pytest.mark.parametrize("content", [_archive("readme.txt"), b"no archive", _archive(NAME)[:-40]])
def test_a_wrong_archive_is_refused(target: Path, content: bytes) -> None:
    with (
        serve(Served(content), "/archive.zip") as served,
        pytest.raises(StoreDownError, match="does not have the checksum"),
    ):
        fetch(target, (Mirror.at(served.url),), CHECKSUM)
    assert left(target) == []


def test_when_no_mirror_helps_each_is_named_with_its_reason(target: Path) -> None:
    first = dead()
    with serve(Served(b"", status=503)) as busy, pytest.raises(StoreDownError) as error:
        fetch(target, (first, Mirror.at(busy.url)), CHECKSUM)
    message = str(error.value)
    assert f"{first.url}: cannot be reached" in message
    assert f"{busy.url}: responds with status 503" in message
    assert "run the command again" in message


def test_two_downloads_do_not_write_one_file(good: Served, target: Path) -> None:
    target.parent.mkdir()
    with target.with_name(f"{NAME}.part").open("wb") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(StoreDownError, match="another download is writing it"):
            fetch(target, (Mirror.at(good.url),), CHECKSUM)


def test_a_place_that_cannot_be_written_is_named(good: Served, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="choose another --out"):
        fetch(tmp_path / "file" / NAME, (Mirror.at(good.url),), CHECKSUM)
