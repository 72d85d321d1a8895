"""Earlier releases of the product, as CHANGELOG.md names them, unpacked from the history."""

import io
import re
import subprocess
import tarfile
from pathlib import Path

ROOT = Path(__file__).parents[2]
FIRST = "0.1.0"


def commits() -> dict[str, str]:
    """Return the commit of every release, the newest release first."""
    text = (ROOT / "CHANGELOG.md").read_text()
    releases = re.findall(r"^## ([0-9.]+)\n\nCommit `([0-9a-f]{7,40})`", text, re.MULTILINE)
    return dict(releases)


def unpack(version: str, folder: Path) -> Path:
    """Write the files of a release, or of a commit, into `folder`.

    Needs the history of the repository.
    """
    commit = commits().get(version, version)
    archive = ["git", "-C", str(ROOT), "archive", "--format=tar", commit]
    packed = subprocess.run(archive, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as files:
        files.extractall(folder, filter="data")
    return folder
