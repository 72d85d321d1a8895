"""Further releases, each in a namespace of its own, on the nodes of the installed one."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import yaml

from tests.cluster.release import CHART, Object, Release


@contextmanager
def in_namespace(release: Release, name: str) -> Iterator[Release]:
    """Yield the release in a new namespace, and delete the namespace after the block."""
    release.kubectl("create", "namespace", name)
    try:
        yield replace(release, namespace=name)
    finally:
        release.kubectl("delete", "namespace", name, "--wait=false")


def values_of_neighbour(release: Release, chart: Path = CHART) -> Object:
    """Return the release's values without an ingress, and with small requests of CPU time.

    Several releases share one node.
    """

    def small(defaults: Object, chosen: Object) -> Object:
        maps = {name: value for name, value in defaults.items() if isinstance(value, dict)}
        parts = {name: small(value, chosen.get(name) or {}) for name, value in maps.items()}
        if "requests" in parts:
            parts["requests"] |= {"cpu": "10m"}
        return chosen | {name: part for name, part in parts.items() if part}

    defaults = yaml.safe_load((chart / "values.yaml").read_text())
    values = small(defaults, release.values) | {"ingress": {"enabled": False}}
    # The scans of all releases would start in the same minute.
    values["jobs"]["drift"] = (values["jobs"].get("drift") or {}) | {"schedule": ""}
    return values
