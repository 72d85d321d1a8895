"""The schema of the chart's values."""

import json
from collections.abc import Iterator
from typing import Any

from tests.chart.rendering import CHART

SCHEMA = json.loads((CHART / "values.schema.json").read_text())


def nodes(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield a node and all below it, each with its path; a reference is not followed."""
    yield path, node
    for name, child in node.get("properties", {}).items():
        yield from nodes(child, f"{path}.{name}".lstrip("."))
