"""`python k8s/render.py`: write the files that are generated from the chart.

These are the README's table of values and the plain manifests under k8s/. With `--check` nothing is
written, and the exit code is 1 if a file is not up to date. The manifests need `helm` on PATH.
"""

import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
CHART = ROOT / "charts" / "fraudops"
# A definition in values.schema.json with this comment is one value, although its keys have names.
ONE_VALUE = "one value"
README = CHART / "README.md"
BEGIN, END = "<!-- values: made by `make render` from values.schema.json -->", "<!-- /values -->"
NAMESPACE = "fraudops"
# The values files of each folder under k8s/.
MANIFESTS: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "quickstart": ("values-quickstart.yaml",),
}
HEAD = "# Made from charts/fraudops by `make render`; change the chart, not this file.\n"


def resolved(schema: Mapping[str, Any], node: Mapping[str, Any]) -> dict[str, Any]:
    """Return the node with its $ref replaced; keys of the node itself win."""
    if "$ref" not in node:
        return dict(node)
    return {
        **schema["$defs"][node["$ref"].rsplit("/", 1)[1]],
        **{key: value for key, value in node.items() if key != "$ref"},
    }


def leaves(
    schema: Mapping[str, Any], node: Mapping[str, Any], path: str = ""
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the path and schema of every value that can be set.

    An object counts as one value if its keys are free, if it is Kubernetes' resources, or if its
    definition says so.
    """
    for name, child in node["properties"].items():
        value = resolved(schema, child)
        where = f"{path}{name}"
        known = set(value.get("properties", {}))
        if known and known != {"requests", "limits"} and value.get("$comment") != ONE_VALUE:
            yield from leaves(schema, value, f"{where}.")
        else:
            yield where, value


def default(values: Mapping[str, Any], path: str) -> Any:
    value: Any = values
    for key in path.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    return value


def kind(node: Mapping[str, Any]) -> str:
    if "enum" in node:
        return " or ".join(f"`{choice}`" for choice in node["enum"])
    types = node["type"] if isinstance(node["type"], list) else [node["type"]]
    # A number may also be a string, because `helm --set` passes 0.5 as one. People need not know.
    return " or ".join(name for name in types if not (name == "string" and "number" in types))


def table() -> str:
    """Return the README's table, from the schema's descriptions and values.yaml's defaults."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    rows = ["| value | default | what it is |", "|---|---|---|"]
    for path, node in leaves(schema, schema):
        shown = json.dumps(default(values, path), separators=(", ", ": "))
        rows.append(
            f"| `{path}` | `{shown}` | {node['description']} ({kind(node)}) |".replace("\n", " ")
        )
    return "\n".join(rows)


def readme() -> str:
    before, _, rest = README.read_text().partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n{table()}\n{END}{after}"


def manifests(folder: str) -> str:
    """Return the chart as plain YAML, without its test pod.

    Raises CalledProcessError, with helm's message as its `stderr`.
    """
    files = [argument for name in MANIFESTS[folder] for argument in ("--values", str(CHART / name))]
    release = ("fraudops", str(CHART), "--namespace", NAMESPACE)
    command = ["helm", "template", *release, "--skip-tests", *files]
    return HEAD + subprocess.run(command, capture_output=True, text=True, check=True).stdout


def generated() -> dict[Path, str]:
    """Return every generated file with its content."""
    return {README: readme()} | {
        ROOT / "k8s" / folder / "fraudops.yaml": manifests(folder) for folder in MANIFESTS
    }


def main() -> None:
    stale = {
        path: text
        for path, text in generated().items()
        if not path.exists() or path.read_text() != text
    }
    check = "--check" in sys.argv[1:]
    for path, text in stale.items():
        if not check:
            path.write_text(text)
        result = "is not up to date: run `make render`" if check else "written"
        sys.stderr.write(f"{path.relative_to(ROOT)} {result}\n")
    sys.exit(1 if stale and check else 0)


if __name__ == "__main__":
    main()
