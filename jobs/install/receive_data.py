"""The other end of `fraudops data push`: standard input into a file of the data volume, whole or
not at all. Run in the cluster.
"""

import hashlib
import sys
from pathlib import Path

import click

from fraudops.errors import RefusedError, StoreDownError
from fraudops.files import atomic_file
from jobs.runner import output, run

CHUNK_BYTES = 1 << 20


def receive(target: Path, size: int) -> str:
    """The sha256 of the `size` bytes that were read.

    Raises RefusedError when fewer come, StoreDownError when the volume has no room.
    """
    digest, left = hashlib.sha256(), size
    try:
        with atomic_file(target, durable=True) as temporary:
            with temporary.open("wb") as file:
                while left and (chunk := sys.stdin.buffer.read(min(CHUNK_BYTES, left))):
                    file.write(chunk)
                    digest.update(chunk)
                    left -= len(chunk)
            if left:
                raise RefusedError(
                    f"the sender ended {left:,} bytes before the end: {target.name} is as it was"
                )
    except OSError as error:
        raise StoreDownError(f"{target} cannot be written: {error.strerror}") from error
    return digest.hexdigest()


@click.command(name="receive")
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--size", required=True, type=click.IntRange(0), metavar="BYTES", help="How many bytes to read."
)
def command(target: Path, size: int) -> str:
    """Read a file from standard input."""
    digest = receive(target, size)
    output.print(f"sha256 {digest}")
    return f"{target} received: {size:,} bytes, sha256 {digest}"


if __name__ == "__main__":
    run(command)
