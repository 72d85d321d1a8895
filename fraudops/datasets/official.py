"""The official ULB file: fetched from one of three mirrors, taken up where a broken download ended,
and known by its checksum.
"""

import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import httpx

from fraudops.canonical import sha256_file
from fraudops.errors import SettingsError, StoreDownError
from fraudops.files import try_lock
from fraudops.proxies import UNUSABLE
from fraudops.urls import split_url, without_credentials

NAME = "creditcard.csv"
SHA256 = "76274b691b16a6c49d3f159c883398e03ccd6d1ee12d9d8ee38f4b4b98551a89"
CHUNK = 1 << 18
Progress = Callable[[int, int | None], None]  # bytes so far, bytes in all


@dataclass(frozen=True)
class Mirror:
    """`zipped`: the address yields a zip archive that holds the file."""

    url: str
    zipped: bool = False

    @classmethod
    def at(cls, url: str) -> "Mirror":
        """Raises SettingsError for what is no URL, and quotes none of it."""
        return cls(url, zipped=split_url(url, "--mirror").path.endswith(".zip"))

    @property
    def shown(self) -> str:
        """The URL without a password, for messages."""
        return without_credentials(split_url(self.url, "--mirror"))


MIRRORS = (
    Mirror("https://storage.googleapis.com/download.tensorflow.org/data/creditcard.csv"),
    Mirror("https://zenodo.org/records/7395559/files/creditcard.csv?download=1"),
    Mirror("https://www.kaggle.com/api/v1/datasets/download/mlg-ulb/creditcardfraud", zipped=True),
)


class _MirrorFailed(Exception):
    """Why one mirror did not help; the next one may."""


def fetch(
    target: Path,
    mirrors: tuple[Mirror, ...] = MIRRORS,
    sha256: str = SHA256,
    progress: Progress = lambda _done, _total: None,
    timeout_seconds: float = 20.0,
) -> str | None:
    """Puts the file at `target` and returns the mirror's url, or None when it already was there.

    Raises SettingsError when `target` is another file or cannot be written, StoreDownError when
    no mirror could give it; what has come stays beside the target for the next attempt.
    """
    if target.exists():
        if target.is_file() and sha256_file(target) == sha256:
            return None
        raise SettingsError(
            f"{target}: exists and is not the file with the checksum {sha256[:12]}…; remove it, or choose another --out"
        )
    failures = []
    limits = httpx.Timeout(timeout_seconds)
    # The mirrors are in the internet, so this client uses the proxy that the environment names.
    try:
        client = httpx.Client(follow_redirects=True, timeout=limits, trust_env=True)
    except (httpx.InvalidURL, ValueError, ImportError):
        raise SettingsError(UNUSABLE) from None
    with client:
        for mirror in mirrors:
            try:
                _from_mirror(client, mirror, target, sha256, progress)
            except _MirrorFailed as failure:
                failures.append(f"  {mirror.shown}: {failure}")
            except OSError as error:
                raise SettingsError(
                    f"{target}: cannot be written ({error.strerror}); choose another --out, or make room"
                ) from error
            else:
                return mirror.shown
    raise StoreDownError(
        "no mirror gave the file:\n"
        + "\n".join(failures)
        + "\ncheck the network and run it again: what has come is kept and taken up from there"
    )


def _from_mirror(
    client: httpx.Client, mirror: Mirror, target: Path, sha256: str, progress: Progress
) -> None:
    part = target.with_name(target.name + (".zip.part" if mirror.zipped else ".part"))
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(part) as file:
        for _attempt in (
            ("taken up", "from the beginning") if file.seek(0, 2) else ("from the beginning",)
        ):
            _download(client, mirror, file, progress)
            if _accept(file, part, mirror, target, sha256):
                return
        part.unlink()
    raise _MirrorFailed(f"what it gives does not have the checksum {sha256[:12]}…")


def _accept(file: BinaryIO, part: Path, mirror: Mirror, target: Path, sha256: str) -> bool:
    """Moves the download to its place if its checksum is right; empties it otherwise."""
    file.flush()
    whole = _unzipped(part, target) if mirror.zipped else part
    if whole is not None and sha256_file(whole) == sha256:
        whole.replace(target)
        part.unlink(missing_ok=True)
        return True
    file.truncate(0)
    file.seek(0)
    if whole is not None and whole != part:
        whole.unlink()
    return False


def _unzipped(part: Path, target: Path) -> Path | None:
    whole = target.with_name(target.name + ".unzipped.part")
    try:
        with (
            zipfile.ZipFile(part) as archive,
            archive.open(NAME) as member,
            whole.open("wb") as file,
        ):
            while chunk := member.read(CHUNK):
                file.write(chunk)
    except (zipfile.BadZipFile, KeyError):
        return None
    return whole


def _download(client: httpx.Client, mirror: Mirror, file: BinaryIO, progress: Progress) -> None:
    """Appends what the file still lacks, or begins anew where the mirror cannot continue.

    Raises _MirrorFailed.
    """
    done = file.seek(0, 2)
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={done}-"} if done else {})
    try:
        with client.stream("GET", mirror.url, headers=headers) as response:
            if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                return  # all of it is there, or too much: the checksum decides
            if not _continues(response, done):
                done = file.seek(0)
                file.truncate()
            length = response.headers.get("Content-Length")
            total = done + int(length) if length else None
            for chunk in response.iter_raw():
                file.write(chunk)
                done += len(chunk)
                progress(done, total)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise _MirrorFailed(
            f"cannot be reached ({type(error).__name__})"
            if done == 0
            else f"broke off after {done:,} bytes ({type(error).__name__})"
        ) from error
    finally:
        file.flush()


def _continues(response: httpx.Response, done: int) -> bool:
    """Whether the body goes on at byte `done`;

    False when it is the whole file. Raises _MirrorFailed when it is neither.
    """
    if response.status_code == httpx.codes.PARTIAL_CONTENT and response.headers.get(
        "Content-Range", ""
    ).startswith(f"bytes {done}-"):
        return True
    if response.status_code != httpx.codes.OK:
        raise _MirrorFailed(f"answers {response.status_code}")
    if response.headers.get("Content-Type", "").startswith("text/html"):
        raise _MirrorFailed("answers with a web page")
    return False


@contextmanager
def _locked(part: Path) -> Iterator[BinaryIO]:
    """The part file, opened for appending by one process alone."""
    with part.open("r+b" if part.exists() else "w+b") as file:
        if not try_lock(file.fileno()):
            raise StoreDownError(f"{part}: another download is writing it; wait for it")
        yield file
