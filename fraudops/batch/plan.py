"""What one run is, and where its pieces lie: pure but for the plan's own file, which whoever comes
first writes and everybody else follows.
"""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import msgspec

from fraudops.canonical import canonical_json
from fraudops.errors import SettingsError, StoreDownError
from fraudops.files import atomic_file, temporary_path

Kind = TypeVar("Kind", bound=msgspec.Struct)
SUFFIXES = (".csv", ".parquet")
# What a user knows the plan's fields by; the others follow from these.
WORDS = {
    "input": "input file",
    "bytes": "state of the input file",
    "modified_ns": "state of the input file",
    "keep": "--keep",
    "bad_rows": "--bad-rows",
    "shards": "number of shards",
    "chunk_rows": "--chunk-rows",
    "model_name": "model",
    "version": "version",
    "digest": "version",
}


class BatchPlan(msgspec.Struct, frozen=True, kw_only=True):
    """Two runs of one plan write the same bytes.

    `modified_ns` is the input's, `pieces` how many parts it falls into, whatever the number of
    shards.
    """

    input: str
    bytes: int
    modified_ns: int
    chunk_rows: int
    pieces: int
    keep: tuple[str, ...]
    bad_rows: str | None
    shards: int
    model_name: str
    version: str
    digest: str
    threshold: float

    def pieces_of(self, shard: int) -> range:
        """Neighbours, so that the shards' outputs one after the other are the whole."""
        return range(shard * self.pieces // self.shards, (shard + 1) * self.pieces // self.shards)


class Counts(msgspec.Struct, frozen=True):
    """Of a piece, a shard or the whole: rows scored, those of them called a fraud, and rows set aside."""

    scored: int = 0
    frauds: int = 0
    set_aside: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.scored + other.scored, self.frauds + other.frauds, self.set_aside + other.set_aside
        )


class Summary(msgspec.Struct, frozen=True):
    """Lies beside a whole output: what was scored with what."""

    plan: BatchPlan
    counts: Counts


class Layout:
    """The files of one output. `folder` is there only while a run is not whole."""

    def __init__(self, out: Path) -> None:
        if not out.name.endswith(SUFFIXES):
            raise SettingsError(
                f"{out}: the format follows from the name; let it end in {' or '.join(SUFFIXES)}"
            )
        self.out, self.folder = out, out.with_name(f"{out.name}.parts")
        self.plan, self.lock = self.folder / "plan.json", self.folder / "lock"
        self.summary = out.with_name(f"{out.name}.json")

    def scores(self, piece: int) -> Path:
        return self.folder / f"{piece:08}.scores"

    def bad(self, piece: int) -> Path:
        return self.folder / f"{piece:08}.bad"

    def done(self, piece: int) -> Path:
        """Written last: the piece is whole."""
        return self.folder / f"{piece:08}.json"

    def shard_done(self, shard: int) -> Path:
        return self.folder / f"shard-{shard}.json"


def part(path: Path, shard: int, shards: int) -> Path:
    """Where a shard's share of the file lies; the file itself when there is but one shard."""
    return path if shards == 1 else path.with_name(f"{path.name}.part-{shard}-of-{shards}")


def claim(layout: Layout, plan: BatchPlan) -> BatchPlan:
    """The plan that stands: this one, unless another shard or an earlier try has written its own
    before.
    """
    with writing(layout.plan):
        layout.folder.mkdir(parents=True, exist_ok=True)
        temporary = temporary_path(layout.plan)
        temporary.write_bytes(canonical_json(plan))
        try:
            os.link(temporary, layout.plan)
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    return load(layout.plan, BatchPlan) or plan


def check_same(standing: BatchPlan, wanted: BatchPlan, layout: Layout) -> None:
    """Raises SettingsError naming what differs between the run that was begun and the one that is
    asked for.
    """
    differing = dict.fromkeys(
        word for name, word in WORDS.items() if getattr(standing, name) != getattr(wanted, name)
    )
    if differing:
        raise SettingsError(
            f"{layout.out}: an unfinished run with another {', another '.join(differing)} lies there; "
            f"finish it with what it was begun with, remove {layout.folder} to begin anew, or choose another --out"
        )


def load(path: Path, kind: type[Kind]) -> Kind | None:
    """None when the file is not there. Raises SettingsError for one that is none of ours."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise SettingsError(
            f"{path}: cannot be read ({type(error).__name__}); remove it, or choose another --out"
        ) from error


def store(path: Path, value: msgspec.Struct) -> None:
    with whole(path) as temporary:
        temporary.write_bytes(canonical_json(value))


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A name to write to; its file has the path's own once the block has ended well, and is on disk
    by then.
    """
    with writing(path), atomic_file(path, durable=True) as temporary:
        yield temporary


@contextmanager
def writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreDownError(
                f"{path}: there is no room left; make some and start again: it goes on where it was"
            ) from error
        raise SettingsError(
            f"{path}: cannot be written ({error.strerror}); choose another place"
        ) from error
