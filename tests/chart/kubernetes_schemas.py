"""Validate objects against the JSON schemas of Kubernetes, and of the custom resources."""

import functools
import json
import re
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

import jsonschema
from referencing import Registry, Resource

from tests.chart.rendering import documents_of

OWN = Path(__file__).parent / "schemas"
# The oldest version that Chart.yaml allows, and the version of the kind cluster.
KUBERNETES = ("1.29", "1.34")
# The chart renders these only for 1.30 and newer.
SINCE_130 = {"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}


def check_all(versions: Iterable[str], rendered: str) -> None:
    """Validate every document of rendered text."""
    for document in documents_of(rendered):
        for version in versions:
            check(version, document)


@functools.cache
def check(version: str, text: str) -> None:
    """Validate an object; raise a jsonschema.ValidationError.

    Cached, because most objects are the same in several variants.
    """
    manifest = json.loads(text)
    kind = manifest["kind"]
    if not (kind in SINCE_130 and version == "1.29"):
        _validator(version, manifest["apiVersion"], kind).validate(manifest)


@functools.cache
def _validator(version: str, api_version: str, kind: str) -> jsonschema.Draft202012Validator:
    own = OWN / f"{kind.lower()}.json"
    if own.exists():
        return jsonschema.Draft202012Validator(json.loads(own.read_text()))
    # rbac.authorization.k8s.io/v1 is rbac-v1 in the name of the file.
    group = re.sub(r"^([^./]*)(?:\.[^/]*)?/", r"\1-", api_version)
    schema = _schema(version, f"{kind.lower()}-{group}.json")
    return jsonschema.Draft202012Validator(schema, registry=_definitions(version))


@functools.cache
def _definitions(version: str) -> Any:
    # kubernetes_validate.validate reads this file of 1.5 MB for each object.
    definitions = Resource.from_contents(_schema(version, "_definitions.json"))
    return definitions @ Registry()


def _schema(version: str, name: str) -> Any:
    folder = resources.files("kubernetes_validate") / "kubernetes-json-schema"
    return json.loads((folder / f"v{version}.0-local-strict" / name).read_text())
