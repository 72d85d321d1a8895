"""Python environments of their own, for public tools that must not share this project's packages.

A lock file with hashes names all packages. uv installs them into the user's cache, once for each
content of the file, so that only the first run needs the package index.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from fraudops.canonical import sha256_file
from fraudops.files import locked

INSTALL_SECONDS = 600
UV = Path(sys.executable).with_name("uv")


def installed_programs(lock: Path) -> Path:
    """Return the folder of programs of the lock file's environment; install it first if needed."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fraudops-tests"
    folder = cache / f"{lock.stem}-{sha256_file(lock)[:12]}"
    # Two test processes, or two checkouts, may install at the same time.
    with locked(folder.with_suffix(".lock")):
        if not (folder / "complete").exists():
            shutil.rmtree(folder, ignore_errors=True)
            python = str(folder / "bin" / "python")
            _uv("venv", "--python", sys.executable, str(folder))
            _uv("pip", "sync", "--python", python, "--require-hashes", str(lock))
            # Last: an installation that was interrupted starts again.
            (folder / "complete").touch()
    return folder / "bin"


def _uv(*arguments: str) -> None:
    # A network that inspects TLS traffic has its certificate in the system's store.
    environment = {"UV_SYSTEM_CERTS": "1", "UV_COMPILE_BYTECODE": "1", **os.environ}
    done = subprocess.run(
        [UV, "--quiet", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=INSTALL_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stderr
