"""Install, install again, upgrade, uninstall: only what was asked for changes, nothing is lost."""

import json

from tests.cluster.release import CHART, Release, until

KINDS = (
    "deployments,statefulsets,services,configmaps,secrets,cronjobs,jobs,networkpolicies,"
    "roles,rolebindings,serviceaccounts,pdb,ingress,pvc"
)


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
