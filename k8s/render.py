"""`python k8s/render.py`: writes what is made from the chart, its README's table of values and the
plain manifests under k8s/.

With `--check` nothing is written, and the exit code says whether all is as it would be written.
Needs `helm` on PATH for the manifests.
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
README = CHART / "README.md"
BEGIN, END = "<!-- values: made by `make render` from values.schema.json -->", "<!-- /values -->"
NAMESPACE = "fraudops"
# folder under k8s/ → the values files that it is rendered with
MANIFESTS: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "quickstart": ("values-quickstart.yaml",),
}
HEAD = "# Made from charts/fraudops by `make render`; change the chart, not this file.\n"


def resolved(schema: Mapping[str, Any], node: Mapping[str, Any]) -> dict[str, Any]:
    """A node with its $ref followed; its own description wins."""
    if "$ref" not in node:
        return dict(node)
    return {
        **schema["$defs"][node["$ref"].rsplit("/", 1)[1]],
        **{key: value for key, value in node.items() if key != "$ref"},
    }


def leaves(
    schema: Mapping[str, Any], node: Mapping[str, Any], path: str = ""
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every value that can be set, with its schema; an object is one value where its keys are free
    or Kubernetes' own.
    """
    for name, child in node["properties"].items():
        found = resolved(schema, child)
        where = f"{path}{name}"
        if "properties" in found and set(found["properties"]) != {"requests", "limits"}:
            yield from leaves(schema, found, f"{where}.")
        else:
            yield where, found


def default(values: Mapping[str, Any], path: str) -> Any:
    found: Any = values
    for part in path.split("."):
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def kind(node: Mapping[str, Any]) -> str:
    if "enum" in node:
        return " or ".join(f"`{choice}`" for choice in node["enum"])
    types = node["type"] if isinstance(node["type"], list) else [node["type"]]
    named = [name for name in types if not (name == "string" and "number" in types)]
    return " or ".join(named)


def table() -> str:
    """The README's table, from the schema's descriptions and the defaults of values.yaml."""
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
    """The chart as plain YAML, without its tests; raises CalledProcessError with helm's own words
    on standard error.
    """
    files = [argument for name in MANIFESTS[folder] for argument in ("--values", str(CHART / name))]
    command = [
        "helm",
        "template",
        "fraudops",
        str(CHART),
        "--namespace",
        NAMESPACE,
        "--skip-tests",
        *files,
    ]
    return HEAD + subprocess.run(command, capture_output=True, text=True, check=True).stdout


def made() -> dict[Path, str]:
    """Every file that is made, with what belongs in it."""
    return {README: readme()} | {
        ROOT / "k8s" / folder / "fraudops.yaml": manifests(folder) for folder in MANIFESTS
    }


def main() -> None:
    stale = {
        path: text for path, text in made().items() if not path.exists() or path.read_text() != text
    }
    check = "--check" in sys.argv[1:]
    for path, text in stale.items():
        if not check:
            path.write_text(text)
        sys.stderr.write(
            f"{path.relative_to(ROOT)} {'is not what the chart makes of it: run `make render`' if check else 'written'}\n"
        )
    sys.exit(1 if stale and check else 0)


if __name__ == "__main__":
    main()
