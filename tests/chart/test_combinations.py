"""Values that a site combines render objects that Kubernetes accepts, with what they ask for."""

import json
from collections import Counter

import pytest

from tests.chart.combinations import Combination
from tests.chart.extensions import EXTENSIONS
from tests.chart.kubernetes_schemas import KUBERNETES, check_all
from tests.chart.matrix import ALL
from tests.chart.rendering import NAMESPACE, Variant, documents_of, render, text_of, title

CLUSTER_WIDE = {"ValidatingAdmissionPolicy", "ValidatingAdmissionPolicyBinding"}


@pytest.mark.parametrize("name", ALL)
def test_a_combination_renders_what_it_asks_for(name: str) -> None:
    combination = ALL[name]
    manifests = render(combination.variant())
    check_all(KUBERNETES, text_of(combination.variant()))
    by_title = {title(manifest): json.dumps(manifest, sort_keys=True) for manifest in manifests}
    assert len(by_title) == len(manifests), Counter(map(title, manifests)).most_common(1)
    for wanted, fragment in combination.has.items():
        assert fragment in by_title[wanted], wanted
    for wanted, fragment in combination.lacks.items():
        assert fragment not in by_title[wanted], wanted


def effect(combination: Combination) -> bool:
    plain = set(documents_of(text_of(Variant())))
    return set(documents_of(text_of(combination.variant()))) != plain


def test_no_combination_is_without_effect() -> None:
    assert [name for name, combination in ALL.items() if not effect(combination)] == []


def test_there_are_at_least_a_hundred_combinations() -> None:
    assert len(ALL) + len(EXTENSIONS) >= 100


@pytest.mark.parametrize("name", ["own name", "IPv6 only", "digest and policy", "OpenShift"])
def test_every_object_names_its_namespace(name: str) -> None:
    for manifest in render(ALL[name].variant()):
        expected = None if manifest["kind"] in CLUSTER_WIDE else NAMESPACE
        assert manifest["metadata"].get("namespace") == expected, title(manifest)
