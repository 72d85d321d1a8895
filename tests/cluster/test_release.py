"""Install, upgrade, uninstall: only the intended objects change, and nothing is lost."""

import json

from tests.cluster.release import CHART, Release, until

KINDS = (
    "deployments,statefulsets,services,configmaps,secrets,cronjobs,jobs,networkpolicies,"
    "roles,rolebindings,serviceaccounts,pdb,ingress,pvc"
)


def specifications(release: Release) -> dict[str, str]:
    """Return the specification of each object, and the names of the pods."""
    objects = {}
    # What the setup Job has made has no label `instance`.
    for item in release.get(KINDS, "-l", "app.kubernetes.io/name=fraudops")["items"]:
        name = f"{item['kind']}/{item['metadata']['name']}"
        if item["metadata"].get("ownerReferences"):
            continue
        objects[name] = json.dumps(
            [item.get(part) for part in ("spec", "data", "rules", "subjects")], sort_keys=True
        )
    return objects | {
        pod: ""
        for component in ("inference", "mlflow", "postgresql")
        for pod in release.pods(component)
    }


def test_the_test_of_the_chart_passes(release: Release) -> None:
    output = release.helm("test", release.name, "--logs")
    assert "its audit row is in PostgreSQL" in output


def test_a_second_installation_changes_nothing(release: Release) -> None:
    """Install again with Helm 4, and as plain manifests as a GitOps tool applies them."""
    release.install()
    before = specifications(release)
    release.install()
    assert specifications(release) == before
    with release.values_file() as values:
        rendered = release.helm(
            "template", release.name, str(CHART), "--values", values, "--no-hooks"
        )
    release.kubectl("apply", "-f", "-", stdin=rendered)
    release.agreed()
    assert specifications(release) == before


def test_a_changed_setting_restarts_exactly_its_readers_and_loses_nothing(release: Release) -> None:
    release.install()
    serving, before = release.serving(), specifications(release)
    with release.traffic() as seen:
        # The next test installs the release again, and with it the setting's own value.
        release.install("audit.fsyncIntervalMs=50")
    after = specifications(release)
    changed = {
        name.partition("/")[2] or name.rsplit("-", 2)[0]
        for name in before.keys() ^ after.keys()
        | {name for name in before if before[name] != after.get(name)}
    }
    assert changed == {"fraudops-inference"}
    assert seen.failures == []
    release.assert_all_audited(seen.ids)
    assert release.agreed() == serving


def test_a_release_that_is_installed_again_serves_the_same_version(release: Release) -> None:
    """Volumes, Secrets and the record outlive the release."""
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
