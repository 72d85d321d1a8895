"""Install, again, upgrade, away and back: nothing changes that was not asked to, and nothing is lost."""

import json
from dataclasses import replace

from tests.cluster.release import CHART, Release, until
from tests.support.figures import Figures

KINDS = "deployments,statefulsets,services,configmaps,secrets,cronjobs,jobs,networkpolicies,roles,rolebindings,serviceaccounts,pdb,ingress,pvc"


def wanted(release: Release) -> dict[str, str]:
    """What each object asks for, and the pods."""
    found = {}
    for item in release.get(KINDS, "-l", f"app.kubernetes.io/instance={release.name}")["items"]:
        name = f"{item['kind']}/{item['metadata']['name']}"
        if item["metadata"].get("ownerReferences"):
            continue
        found[name] = json.dumps(
            [item.get(part) for part in ("spec", "data", "rules", "subjects")], sort_keys=True
        )
    return found | {
        pod: ""
        for component in ("inference", "mlflow", "postgresql")
        for pod in release.pods(component)
    }


def test_the_charts_own_test_passes(release: Release) -> None:
    said = release.helm("test", release.name, "--logs")
    assert "its audit row is in PostgreSQL" in said


def test_the_same_again_changes_nothing(release: Release) -> None:
    """By helm 4, and as plain manifests, as GitOps applies them."""
    release.install()
    before = wanted(release)
    release.install()
    assert wanted(release) == before
    with release.values_file() as values:
        rendered = release.helm(
            "template", release.name, str(CHART), "--values", values, "--no-hooks"
        )
    release.kubectl("apply", "-f", "-", stdin=rendered)
    release.agreed()
    assert wanted(release) == before


def test_a_changed_setting_restarts_exactly_its_readers_and_loses_nothing(release: Release) -> None:
    release.install()
    serving, before = release.serving(), wanted(release)
    with release.traffic() as seen:
        release.install("audit.fsyncIntervalMs=50")
    after = wanted(release)
    changed = {
        name.partition("/")[2] or name.rsplit("-", 2)[0]
        for name in before.keys() ^ after.keys()
        | {name for name in before if before[name] != after.get(name)}
    }
    assert changed == {"fraudops-inference"}
    assert seen.failures == []
    release.assert_all_audited(seen.ids)
    assert release.agreed() == serving
    release.install()


def test_uninstalled_and_installed_again_it_serves_what_it_served(release: Release) -> None:
    """The volumes, the Secrets and the record outlive the release."""
    release.agreed()
    serving, rows = release.serving(), int(release.sql("SELECT count(*) FROM predictions"))
    release.helm("uninstall", release.name, "--wait")
    until(
        lambda: (
            not any(release.pods(component) for component in ("inference", "mlflow", "postgresql"))
        ),
        120,
        "no pod is left",
    )
    assert release.serving() == serving
    release.install()
    assert release.agreed() == serving
    assert int(release.sql("SELECT count(*) FROM predictions")) >= rows


def test_a_second_release_in_another_namespace_by_helm_3(
    release: Release, figures: Figures
) -> None:
    """`helm3 install --wait` ends well with a first model that serves; the first release does not
    notice.
    """
    second, before = replace(release, namespace="second"), release.serving()
    release.kubectl("create", "namespace", "second")
    try:
        second.install("inference.replicas=1", "ingress.enabled=false", program="helm3")
        assert second.agreed()[1] == 1
        said = second.helm("test", "fraudops", "--logs", program="helm3")
        assert "its audit row is in PostgreSQL" in said
    finally:
        release.kubectl("delete", "namespace", "second", "--wait=false")
    assert release.serving() == before
    figures.note("helm3 install --wait of a second release", "serves its own first model, epoch 1")
