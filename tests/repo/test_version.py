"""The version of the programs and CHANGELOG.md belong together."""

import re

from fraudops import __version__
from tests.support.scripts import ROOT, script


def test_between_releases_the_version_is_that_of_no_release() -> None:
    text = (ROOT / "CHANGELOG.md").read_text()
    released = [
        name for name in re.findall(r"^## (\S+)", text, re.MULTILINE) if name != "Unreleased"
    ]
    if list(script("release").changes(text, "Unreleased")):
        assert __version__ not in released, "changes are not released, and images have an old tag"
    else:
        assert __version__ == released[0]
