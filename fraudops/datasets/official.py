"""Downloads the official ULB file from one of three mirrors, and verifies its checksum.

A download that breaks off is continued where it ended.
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
from fraudops.urls import split_url, unreadable_certificates, without_credentials

NAME = "creditcard.csv"
SHA256 = "76274b691b16a6c49d3f159c883398e03ccd6d1ee12d9d8ee38f4b4b98551a89"
CHUNK = 1 << 18
# Called with the bytes so far and the bytes in total, or None if the total is unknown.
Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Mirror:
    """A URL of the file, or if `zipped` of a zip archive that contains the file."""

    url: str
    zipped: bool = False

    @classmethod
    def at(cls, url: str) -> "Mirror":
        """Return the mirror at a URL.

        Raises SettingsError for an invalid URL. The message does not quote it, because it may
        contain a password.
        """
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
    """The reason why one mirror failed; `fetch` then tries the next one."""


def fetch(
    target: Path,
    mirrors: tuple[Mirror, ...] = MIRRORS,
    sha256: str = SHA256,
    progress: Progress = lambda _done, _total: None,
    timeout_seconds: float = 20.0,
) -> str | None:
    """Download the file to `target`; return the mirror's URL, or None if it exists already.

    An incomplete download stays next to the target, and the next call continues it.

    Raises SettingsError when `target` is another file or cannot be written, and StoreDownError
    when every mirror failed.
    """
    if target.exists():
        if target.is_file() and sha256_file(target) == sha256:
            return None
        raise SettingsError(
            f"{target}: exists and is not the file with the checksum {sha256[:12]}…; "
            "remove it, or choose another --out"
        )
    failures = []
    limits = httpx.Timeout(timeout_seconds)
    # The mirrors are on the internet, so this client uses the proxy that the environment names.
    try:
        client = httpx.Client(follow_redirects=True, timeout=limits, trust_env=True)
    except (httpx.InvalidURL, ValueError, ImportError):
        raise SettingsError(UNUSABLE) from None
    except OSError as error:
        raise unreadable_certificates(error) from error
    with client:
        for mirror in mirrors:
            try:
                _from_mirror(client, mirror, target, sha256, progress)
            except _MirrorFailed as failure:
                failures.append(f"  {mirror.shown}: {failure}")
            except OSError as error:
                raise SettingsError(
                    f"{target}: cannot be written ({error.strerror}); "
                    "choose another --out, or free disk space"
                ) from error
            else:
                return mirror.shown
    raise StoreDownError(
        "no mirror gave the file:\n"
        + "\n".join(failures)
        + "\ncheck the network and run the command again: it continues incomplete downloads"
    )


def _from_mirror(
    client: httpx.Client, mirror: Mirror, target: Path, sha256: str, progress: Progress
) -> None:
    part = target.with_name(target.name + (".zip.part" if mirror.zipped else ".part"))
    target.parent.mkdir(parents=True, exist_ok=True)
    with _locked(part) as file:
        # A continued download may join two versions of the file. If its checksum is wrong,
        # `_accept` empties it and a second attempt starts from the beginning.
        attempts = 2 if file.seek(0, 2) else 1
        for _attempt in range(attempts):
            _download(client, mirror, file, progress)
            if _accept(file, part, mirror, target, sha256):
                return
        part.unlink()
    raise _MirrorFailed(f"its file does not have the checksum {sha256[:12]}…")


def _accept(file: BinaryIO, part: Path, mirror: Mirror, target: Path, sha256: str) -> bool:
    """Move the download to its target if its checksum is right, or else empty it."""
    # The checksum is read through the path, which does not see this file object's buffer.
    file.flush()
    complete = _unzipped(part, target) if mirror.zipped else part
    if complete is not None and sha256_file(complete) == sha256:
        complete.replace(target)
        part.unlink(missing_ok=True)
        return True
    file.truncate(0)
    file.seek(0)
    if complete is not None and complete != part:
        complete.unlink()
    return False


def _unzipped(part: Path, target: Path) -> Path | None:
    """Return the path of the unpacked file, or None if the archive is bad or does not have it."""
    unzipped = target.with_name(target.name + ".unzipped.part")
    try:
        with (
            zipfile.ZipFile(part) as archive,
            archive.open(NAME) as member,
            unzipped.open("wb") as file,
        ):
            while chunk := member.read(CHUNK):
                file.write(chunk)
    except (zipfile.BadZipFile, KeyError):
        return None
    return unzipped


def _download(client: httpx.Client, mirror: Mirror, file: BinaryIO, progress: Progress) -> None:
    """Append the missing bytes, or start from the beginning if the mirror cannot continue.

    Raises _MirrorFailed.
    """
    done = file.seek(0, 2)
    # Byte ranges of a compressed response would not be those of the file.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={done}-"} if done else {})
    try:
        with client.stream("GET", mirror.url, headers=headers) as response:
            if response.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
                # The file is complete or too long already. The checksum decides which.
                return
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
    """Return True if the body continues at byte `done`, and False if it is the whole file.

    Raises _MirrorFailed when it is neither.
    """
    if response.status_code == httpx.codes.PARTIAL_CONTENT and response.headers.get(
        "Content-Range", ""
    ).startswith(f"bytes {done}-"):
        return True
    if response.status_code != httpx.codes.OK:
        raise _MirrorFailed(f"responds with status {response.status_code}")
    if response.headers.get("Content-Type", "").startswith("text/html"):
        # A mirror that wants a login or shows a notice does so with status 200.
        raise _MirrorFailed("responds with a web page")
    return False


@contextmanager
def _locked(part: Path) -> Iterator[BinaryIO]:
    """Open the part file for one process only. Raises StoreDownError when another has it open."""
    with part.open("r+b" if part.exists() else "w+b") as file:
        if not try_lock(file.fileno()):
            raise StoreDownError(f"{part}: another download is writing it; wait until it ends")
        yield file
