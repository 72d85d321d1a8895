"""Back up the serving record, the databases and the models' files into a folder of a volume.

The chart runs the two steps, with a dump of the databases between them. The order makes the copy
consistent: the record names a version, the registry that is copied later knows the version, and the
artifacts that are copied last have its files. No Secret is copied.
"""

import asyncio
import hashlib
import os
import re
import shutil
import tarfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import click

from fraudops.cluster.api import Cluster
from fraudops.database_url import read_database_url
from fraudops.errors import StoreDownError
from fraudops.promotion.serving_record import CONFIG_MAP_KEY
from jobs.runner import notices, run

# Names that sort by age. A folder gets such a name when it is complete.
STAMP, COMPLETE = "%Y%m%dT%H%M%SZ", re.compile(r"\d{8}T\d{6}Z")
SUMS, ARTIFACTS = "SHA256SUMS", "artifacts.tar"
# Files of the hand-over. The folder has no file of another backup, because it is the pod's own.
PLACE, SERVICES, SCRIPT = "folder", "pg_service.conf", "dump.sh"
# The variable with the URL of each database. The keys name the dumps and the sections of SERVICES.
DATABASES = {"audit": "DATABASE_URL", "mlflow": "MLFLOW_BACKEND_STORE_URI"}
# A backup that has not ended after this time was killed.
ABANDONED_SECONDS = 86_400.0


def connection_files(urls: dict[str, str], hand_over: Path) -> dict[Path, str]:
    """Return the content of the files from which pg_dump reads how to connect, by their paths.

    No password is an argument, which every process of the node could see.
    """
    sections, files = [], {}
    for name, url in urls.items():
        values = read_database_url(url, DATABASES[name]).for_psycopg()
        # libpq drops the spaces at the end of a service file's line, and keeps a password file's.
        if password := values.pop("password", ""):
            values["passfile"] = hand_over / f"{name}.pgpass"
            files[values["passfile"]] = password_line(password)
        lines = [f"{key}={value}" for key, value in values.items() if key != "prepare_threshold"]
        sections.append("\n".join([f"[{name}]", *lines, ""]))
    return {hand_over / SERVICES: "\n".join(sections), **files}


def password_line(password: str) -> str:
    """Return a line of a libpq password file: any host, port, database and user."""
    escaped = password.replace("\\", r"\\").replace(":", r"\:")
    return f"*:*:*:*:{escaped}\n"


def dump_script(hand_over: Path, folder: Path, names: list[str], secrets: list[Path]) -> str:
    """Return the script for the container with pg_dump. It has no Python.

    At its end it deletes `secrets`.
    """
    # Restored roles may have other names, and `migrate` grants what they need.
    dumps = [
        f"pg_dump --format=custom --no-owner --no-privileges --file={name}.dump service={name}"
        for name in names
    ]
    lines = ["set -eu", f"cd {folder}", f"export PGSERVICEFILE={hand_over / SERVICES}", *dumps]
    return "\n".join([*lines, *(f"rm {path}" for path in secrets), ""])


def begin(volume: Path, hand_over: Path, record: str | None) -> Path:
    """Make the folder of this backup with the record in it, and hand on what the dump needs.

    Returns the folder. Raises StoreDownError and SettingsError.
    """
    folder = volume / f".{datetime.now(UTC).strftime(STAMP)}.partial"
    urls = {name: url for name, variable in DATABASES.items() if (url := os.environ.get(variable))}
    with translated(volume):
        # Releases of one namespace may share a claim: each has its own folder on it.
        volume.mkdir(exist_ok=True)
        folder.mkdir()
        if record:
            (folder / CONFIG_MAP_KEY).write_text(record)
    secrets = connection_files(urls, hand_over)
    for path, content in secrets.items():
        # libpq ignores a password file that its group may read.
        path.touch(mode=0o600)
        path.write_text(content)
    (hand_over / SCRIPT).write_text(dump_script(hand_over, folder, list(urls), list(secrets)))
    (hand_over / PLACE).write_text(str(folder))
    return folder


def finish(volume: Path, hand_over: Path, artifacts: Path | None, keep: int) -> Path:
    """Copy the artifacts, write the checksums, and give the folder its name.

    Then the oldest backups go, so that `keep` remain. Returns the folder. Raises StoreDownError.
    """
    folder = Path((hand_over / PLACE).read_text())
    with translated(volume):
        if artifacts:
            with tarfile.open(folder / ARTIFACTS, "w") as archive:
                _add(archive, artifacts)
        files = sorted(path for path in folder.iterdir() if path.name != SUMS)
        sums = [f"{_sha256(path)}  {path.name}\n" for path in files]
        (folder / SUMS).write_text("".join(sums))
        _sync(folder)
        complete = folder.rename(volume / folder.name.removeprefix(".").removesuffix(".partial"))
        _sync(volume)
        _remove_old(volume, keep)
    return complete


def _add(archive: tarfile.TarFile, artifacts: Path) -> None:
    """Add all files below the folder, under the folder's own name."""
    for path in sorted([artifacts, *artifacts.rglob("*")]):
        try:
            name = str(path.relative_to(artifacts.parent))
            archive.add(path, name, recursive=False)
        except FileNotFoundError:
            # Another program deleted a version during the copy. What the record names stays.
            notices.print(f"{path} is gone: left out", markup=False)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(folder: Path) -> None:
    """Write the folder's files and its entries to disk."""
    for path in [*(each for each in folder.iterdir() if each.is_file()), folder]:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove_old(volume: Path, keep: int) -> None:
    complete = sorted(path for path in volume.iterdir() if COMPLETE.fullmatch(path.name))
    killed = [
        path
        for path in volume.glob(".*.partial")
        if time.time() - path.stat().st_mtime > ABANDONED_SECONDS
    ]
    for path in [*complete[:-keep], *killed]:
        shutil.rmtree(path)
        notices.print(f"removed {path.name}", markup=False)


@contextmanager
def translated(volume: Path) -> Iterator[None]:
    """Raise StoreDownError for a volume that is full, away or not writable."""
    try:
        yield
    except OSError as error:
        raise StoreDownError(
            f"the volume at {volume} cannot be used ({error.strerror or type(error).__name__}): "
            "is it full, and may this user write to it?"
        ) from error


async def read_record(name: str) -> str | None:
    """Return the serving record as it is stored; None before the first promotion."""
    async with Cluster.connect(os.environ.get("FRAUDOPS_CLUSTER__NAMESPACE")) as cluster:
        found = await cluster.call("GET", cluster.path("v1", "configmaps", name))
    return (found.get("data") or {}).get(CONFIG_MAP_KEY)


@click.group(name="backup")
def command() -> None:
    """Back up the serving record, the databases and the models' files."""


_folder = click.Path(exists=True, file_okay=False, path_type=Path)
volume_option = click.option(
    "--volume",
    type=click.Path(file_okay=False, path_type=Path),
    required=True,
    help="Folder of this release's backups. `begin` makes it.",
)
hand_over_option = click.option(
    "--hand-over", type=_folder, required=True, help="Files from one container to the next."
)


@command.command(name="begin")
@volume_option
@hand_over_option
@click.option("--record", required=True, metavar="NAME", help="ConfigMap of the serving record.")
def begin_command(volume: Path, hand_over: Path, record: str) -> None:
    """Copy the record, and write the script that dumps the databases."""
    begin(volume, hand_over, asyncio.run(read_record(record)))


@command.command(name="finish")
@volume_option
@hand_over_option
@click.option("--artifacts", type=click.Path(path_type=Path), help="Folder of MLflow's artifacts.")
@click.option("--keep", type=click.IntRange(1), required=True, help="Number of backups to keep.")
def finish_command(volume: Path, hand_over: Path, artifacts: Path | None, keep: int) -> str:
    """Copy the artifacts, and complete the backup."""
    folder = finish(volume, hand_over, artifacts, keep)
    size = sum(path.stat().st_size for path in folder.iterdir())
    summary = f"backup {folder.name} is complete ({size / 1e6:.1f} MB)"
    notices.print(summary, markup=False)
    return summary


if __name__ == "__main__":
    run(command)
