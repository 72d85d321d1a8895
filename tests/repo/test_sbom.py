"""`make sbom`: what a list of an image's packages says."""

import json
import re
from pathlib import Path

from fraudops import __version__
from tests.support.scripts import script

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "k8s" / "cluster.py"


def test_the_list_of_an_image_names_every_pin_with_its_hashes() -> None:
    text = script("sbom").sbom("fraudops-serving")
    found = json.loads(text)
    image = found["metadata"]["component"]
    assert (image["name"], image["version"], image["type"]) == (
        "fraudops-serving",
        __version__,
        "container",
    )
    lock = (ROOT / "requirements-serve.lock").read_text()
    pins = dict(re.findall(r"^([a-z0-9._-]+)==(\S+)", lock, re.MULTILINE))
    assert {part["name"]: part["version"] for part in found["components"]} == pins
    hashes = {
        each["content"]
        for part in found["components"]
        for reference in part["externalReferences"]
        for each in reference["hashes"]
    }
    assert hashes == set(re.findall(r"sha256:([0-9a-f]{64})", lock))
    # With either of these, two runs would write different bytes.
    assert "timestamp" not in found["metadata"]
    assert "serialNumber" not in found


def test_there_is_a_list_for_each_image() -> None:
    named = set(re.findall(r'^    "(fraudops-[a-z]+)": ', CLUSTER.read_text(), re.MULTILINE))
    assert set(script("sbom").LOCKS) == named
