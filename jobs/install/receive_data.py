"""Receiving side of `fraudops data push`: copy standard input to a file of the data volume.

It runs in the cluster. The file is replaced only when all bytes have arrived.
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
    """Read `size` bytes, store them as `target` and return their sha256.

    Raises RefusedError if fewer bytes arrive, StoreDownError if the volume cannot store them.
    """
    digest, missing = hashlib.sha256(), size
    try:
        with atomic_file(target, durable=True) as temporary:
            with temporary.open("wb") as file:
                while missing and (chunk := sys.stdin.buffer.read(min(CHUNK_BYTES, missing))):
                    file.write(chunk)
                    digest.update(chunk)
                    missing -= len(chunk)
            if missing:
                raise RefusedError(
                    f"the last {missing:,} bytes did not arrive: {target.name} is unchanged; "
                    "push the file again"
                )
    except OSError as error:
        raise StoreDownError(f"{target} cannot be written: {error.strerror}") from error
    return digest.hexdigest()


@click.command(name="receive")
@click.argument("target", type=click.Path(path_type=Path))
@click.option(
    "--size",
    required=True,
    type=click.IntRange(0),
    metavar="BYTES",
    help="Number of bytes to read.",
)
def command(target: Path, size: int) -> str:
    """Read a file from standard input and store it as TARGET."""
    digest = receive(target, size)
    # `fraudops data push` looks for this line.
    output.print(f"sha256 {digest}")
    return f"{target} received: {size:,} bytes, sha256 {digest}"


if __name__ == "__main__":
    run(command)
