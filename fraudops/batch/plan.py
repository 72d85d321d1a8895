"""The plan of a run and the paths of its files.

The first shard writes the plan to a file, and every other shard follows that plan.
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
# The fields of a plan that the user decides, as messages name them. The other fields follow.
FIELD_NAMES = {
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
    """Everything that decides about the output: two runs of one plan write the same bytes.

    `bytes` and `modified_ns` are the size and the modification time of the input. `pieces` is the
    number of pieces of the whole input, independent of the number of shards.
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
        """Return the pieces of a shard, counted from 0.

        They are consecutive, so the outputs of all shards in order are the whole output.
        """
        return range(shard * self.pieces // self.shards, (shard + 1) * self.pieces // self.shards)


class Counts(msgspec.Struct, frozen=True):
    """Counts of a piece, a shard or the whole run.

    `frauds` counts the scored rows that are predicted as fraud. `set_aside` counts the rows that
    were written to the file of bad rows.
    """

    scored: int = 0
    frauds: int = 0
    set_aside: int = 0

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(
            self.scored + other.scored, self.frauds + other.frauds, self.set_aside + other.set_aside
        )


class Summary(msgspec.Struct, frozen=True):
    """The plan and the counts of a complete output, in a file next to it."""

    plan: BatchPlan
    counts: Counts


class Layout:
    """The paths of the files of one output. `folder` exists only while the run is incomplete.

    Raises SettingsError for an output with an unknown suffix.
    """

    def __init__(self, out: Path) -> None:
        if not out.name.endswith(SUFFIXES):
            raise SettingsError(
                f"{out}: the name decides the format; let it end in {' or '.join(SUFFIXES)}"
            )
        self.out, self.folder = out, out.with_name(f"{out.name}.parts")
        self.plan, self.lock = self.folder / "plan.json", self.folder / "lock"
        self.summary = out.with_name(f"{out.name}.json")

    def scores(self, piece: int) -> Path:
        return self.folder / f"{piece:08}.scores"

    def bad(self, piece: int) -> Path:
        return self.folder / f"{piece:08}.bad"

    def done(self, piece: int) -> Path:
        """Return the path of a piece's counts, which are written last: the piece is complete."""
        return self.folder / f"{piece:08}.json"

    def shard_done(self, shard: int) -> Path:
        return self.folder / f"shard-{shard}.json"


def part(path: Path, shard: int, shards: int) -> Path:
    """Return the path of a shard's part of a file, or the file itself for a single shard."""
    return path if shards == 1 else path.with_name(f"{path.name}.part-{shard}-of-{shards}")


def claim(layout: Layout, plan: BatchPlan) -> BatchPlan:
    """Store the plan unless one is stored already; return the stored one.

    An earlier run or another shard may have stored it.

    Raises SettingsError, or StoreDownError when the disk is full.
    """
    with writing(layout.plan):
        layout.folder.mkdir(parents=True, exist_ok=True)
        temporary = temporary_path(layout.plan)
        temporary.write_bytes(canonical_json(plan))
        try:
            # A link fails if the plan exists, where a rename would replace it. So of two shards
            # that start together one wins, and no shard reads half a plan.
            os.link(temporary, layout.plan)
        except FileExistsError:
            pass
        finally:
            temporary.unlink()
    return load(layout.plan, BatchPlan) or plan


def check_same(stored: BatchPlan, plan: BatchPlan, layout: Layout) -> None:
    """Raise SettingsError, which names the differences, if an unfinished run has another plan."""
    differing = dict.fromkeys(
        label for name, label in FIELD_NAMES.items() if getattr(stored, name) != getattr(plan, name)
    )
    if differing:
        raise SettingsError(
            f"{layout.out}: an unfinished run with another {', another '.join(differing)} exists; "
            f"finish it with the same options, remove {layout.folder} to start again, "
            "or choose another --out"
        )


def load(path: Path, kind: type[Kind]) -> Kind | None:
    """Read a file of a run; return None if it does not exist.

    Raises SettingsError for a file that this release cannot read.
    """
    try:
        return msgspec.json.decode(path.read_bytes(), type=kind)
    except FileNotFoundError:
        return None
    except (OSError, msgspec.MsgspecError) as error:
        raise SettingsError(
            f"{path}: cannot be read ({type(error).__name__}); remove it, or choose another --out"
        ) from error


def store(path: Path, value: msgspec.Struct) -> None:
    """Write a value as canonical JSON, durably. Raises SettingsError, StoreDownError."""
    with whole(path) as temporary:
        temporary.write_bytes(canonical_json(value))


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a temporary path; sync its file and rename it to `path` when the block succeeds.

    After a crash the file is there completely or not at all. Raises SettingsError, StoreDownError.
    """
    with writing(path), atomic_file(path, durable=True) as temporary:
        yield temporary


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Translate an OSError of the block to StoreDownError for a full disk, else SettingsError."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreDownError(
                f"{path}: the disk is full; free some space and start again: "
                "the run continues where it stopped"
            ) from error
        raise SettingsError(
            f"{path}: cannot be written ({error.strerror}); choose another place"
        ) from error
