"""A string of the values stays a string in every object, whatever YAML would take it for."""

import itertools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from tests.chart.extensions import merged, nested
from tests.chart.kubernetes_schemas import KUBERNETES, check_all
from tests.chart.rendering import Variant, documents_of, helm_template
from tests.chart.values_schema import SCHEMA

# Words that YAML reads as a number, a boolean or null. Each path gets another one of its kind,
# because two accounts or Secrets of one name would be refused.
KINDS = {
    "a whole number": [str(number) for number in range(1000, 1200)],
    "a float": [f"{number}e3" for number in range(1, 200)],
    "a hexadecimal number": [f"0x{number:x}" for number in range(16, 216)],
    "a date": [f"2001-01-{day:02}" for day in range(1, 29)],
    "a word": ["on", "off", "yes", "no", "true", "false", "null", "y", "n"],
}
# Values whose meaning allows only one word, or that exclude each other.
SET_HERE = {
    *("caBundle.secret", "inference.service.loadBalancerClass", "mlflow.url", "data.url"),
    *("data.file", "data.schema", "mlflow.artifacts.s3.destination", "data.sha256"),
    "clientAuth.jwksUrl",
    *("inference.spool.persistence.size", "inference.state.size"),
    *("inference.image.tag", "mlflow.image.tag", "jobs.image.tag", "postgresql.image.tag"),
}
OWN_STORES: Mapping[str, Any] = {
    "environment": "production",
    "postgresql": {"enabled": False},
    "mlflow": {"enabled": False},
    "data": {"source": "url", "sha256": "0" * 64},
    "audit": {"features": "sealed"},
    "ingress": {"enabled": True},
    "serviceMonitor": {"enabled": True},
    "prometheusRule": {"enabled": True},
    "inference": {"state": {"type": "ephemeral"}, "spool": {"persistence": {"enabled": True}}},
    "promotion": {"policy": {"enabled": True}},
    "backup": {"enabled": True},
}
BUNDLED: Mapping[str, Any] = {
    "mlflow": {
        "artifacts": {"type": "s3", "s3": {"destination": "s3://a/b"}},
        "existingSecret": "",
    },
    "data": {"source": "volume", "existingSecret": ""},
    "postgresql": {
        "serviceAccount": {"create": True},
        "secretKeys": {
            "url": "url",
            "mlflowUrl": "mlflow-url",
            "adminUrl": "admin-url",
            "password": "password",
        },
        "existingSecret": "",
        "tls": {"existingSecret": "", "certKey": "", "keyKey": ""},
    },
}
# Maps of an object whose values Kubernetes reads as strings.
STRINGS = ("labels", "annotations", "matchLabels", "data", "nodeSelector")
MAPS = {
    "labels": {"a": "WORD"},
    "annotations": {"a": "WORD"},
    "nodeSelector": {"a": "WORD"},
    "envVars": [{"name": "A", "value": "WORD"}],
}


def paths(node: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    for name, child in node.get("properties", {}).items():
        where = f"{path}.{name}".lstrip(".")
        if "$ref" in child:
            known = SCHEMA["$defs"][child["$ref"].rsplit("/", 1)[1]]
            child = {**known, "$ref": child["$ref"]}
        if "properties" in child and not child.get("$comment"):
            yield from paths(child, where)
        else:
            yield where, child


def texts(words: list[str]) -> dict[str, Any]:
    """Return values with a word in every free string that may be that word."""
    result: dict[str, Any] = {}
    supply = itertools.cycle(words)
    for path, node in paths(SCHEMA):
        word = next(supply)
        kind = node.get("$ref", "").rsplit("/", 1)[-1]
        if kind in MAPS:
            sample = json.loads(json.dumps(MAPS[kind]).replace("WORD", word))
            result = merged(result, nested(path, sample))
        elif path not in SET_HERE and takes(node, word):
            result = merged(result, nested(path, word))
    accounts = itertools.cycle(words)
    own = (
        *("inference", "jobs", "promotion", "jobs.setup", "jobs.reconcile", "mlflow"),
        *("postgresql", "backup"),
    )
    for component in own:
        result = merged(result, nested(f"{component}.serviceAccount.name", next(accounts)))
    return result


def takes(node: Mapping[str, Any], word: str) -> bool:
    free = node.get("type") == "string" and "enum" not in node
    return free and bool(re.search(node.get("pattern", ""), word))


def rendered(values: Mapping[str, Any], namespace: str) -> str:
    done = helm_template(Variant(values=json.dumps(values)), release="a", namespace=namespace)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("stores", ["own", "bundled"])
def test_a_word_stays_a_string(kind: str, stores: str) -> None:
    fixed = OWN_STORES if stores == "own" else merged(OWN_STORES, BUNDLED)
    values = merged(texts(KINDS[kind]), fixed)
    if stores == "bundled":
        values["postgresql"]["enabled"] = values["mlflow"]["enabled"] = True
    namespace = KINDS[kind][0]
    text = rendered(values, namespace)
    check_all(KUBERNETES, text)
    manifests = [json.loads(document) for document in documents_of(text)]
    assert len(manifests) > 35
    for manifest in manifests:
        strings_only(manifest)
    data = json.dumps(manifests)
    assert data.count(f'"namespace": "{namespace}"') > 30


def strings_only(node: Any, path: str = "") -> None:
    """Fail for a map of STRINGS with another value, or for a name that is no string."""
    children = node.items() if isinstance(node, dict) else enumerate(node)
    for key, value in children:
        where = f"{path}.{key}"
        if key in STRINGS and isinstance(value, dict):
            assert all(isinstance(each, str) for each in value.values()), where
        if key in ("name", "key", "secretName", "claimName", "namespace", "value", "url"):
            assert isinstance(value, str | dict), where
        if isinstance(value, dict | list):
            strings_only(value, where)
