"""Upgrades: exactly the pods that read a changed value are replaced."""

import shutil
from pathlib import Path

import pytest

from fraudops import __version__
from tests.chart.rendering import CHART, Manifest, Variant, kinds, pod_template, render, title
from tests.support.releases import commits, unpack

PODS = {
    "Deployment fraudops-inference",
    "Deployment fraudops-mlflow",
    "StatefulSet fraudops-postgresql",
}
S3 = ("mlflow.artifacts.type=s3", "mlflow.artifacts.s3.destination=s3://a/b")


def replaced(before: list[Manifest], after: list[Manifest]) -> set[str]:
    """Return the components whose pods an upgrade replaces."""
    templates = [
        {
            title(manifest): pod_template(manifest)
            for manifest in kinds(manifests, "Deployment", "StatefulSet")
        }
        for manifests in (before, after)
    ]
    return {name.split("-")[1] for name in PODS if templates[0][name] != templates[1][name]}


@pytest.mark.parametrize(
    ("setting", "expected"),
    [
        ("inference.workers=3", {"inference"}),
        ("audit.fsync=always", {"inference"}),
        ("secretRevisions.adminToken=1", {"inference"}),
        ("secretRevisions.auditKey=1", {"inference"}),
        ("secretRevisions.database=1", {"inference", "mlflow"}),
        ("secretRevisions.artifacts=1", set()),
        ("postgresql.secretAs=file", {"inference", "mlflow"}),
        ("adminToken.existingSecret=own", {"inference"}),
        ("audit.existingSecret=own", {"inference"}),
        ("mlflow.allowedHosts={mlflow.example.com}", {"mlflow"}),
        ("postgresql.parameters.max_connections=200", {"postgresql"}),
        ("gates.rocAuc=0.95", set()),
        ("drift.minimumRows=1000", set()),
        ("jobs.image.tag=9.9.9", set()),
        ("inference.service.port=8080", set()),
        ("inference.autoscaling.enabled=true", set()),
        ("inference.replicas=5", set()),
        ("networkPolicy.enabled=false", set()),
        ("networkPolicy.apiServer.cidrs={192.0.2.1/32}", set()),
        ("ingress.enabled=true", set()),
    ],
)
def test_a_change_replaces_exactly_the_pods_that_read_it(setting: str, expected: set[str]) -> None:
    assert replaced(render(), render(Variant(settings=(setting,)))) == expected


def test_a_change_of_the_artifacts_secret_replaces_mlflow() -> None:
    assert replaced(
        render(Variant(settings=S3)), render(Variant(settings=(*S3, "secretRevisions.artifacts=1")))
    ) == {"mlflow"}


def copy_of_chart(folder: Path, before: str, after: str) -> Path:
    chart = Path(shutil.copytree(CHART, folder / "chart"))
    text = (chart / "Chart.yaml").read_text()
    assert before in text
    (chart / "Chart.yaml").write_text(text.replace(before, after))
    return chart


def test_a_new_version_of_the_chart_alone_replaces_nothing(tmp_path: Path) -> None:
    newer = copy_of_chart(tmp_path, f"\nversion: {__version__}", "\nversion: 9.9.9")
    assert replaced(render(), render(chart=newer)) == set()


def test_a_new_release_of_the_programs_replaces_the_pods_that_run_them(tmp_path: Path) -> None:
    newer = copy_of_chart(tmp_path, f"appVersion: {__version__}", "appVersion: 9.9.9")
    assert replaced(render(), render(chart=newer)) == {"inference", "mlflow"}


def immutable_fields(manifests: list[Manifest]) -> dict[str, object]:
    return {
        title(m): [
            m["spec"]["selector"],
            m["spec"].get("volumeClaimTemplates"),
            m["spec"].get("serviceName"),
        ]
        for m in kinds(manifests, "Deployment", "StatefulSet")
    }


def test_immutable_fields_stay_the_same(tmp_path: Path) -> None:
    """Kubernetes refuses an upgrade that changes selectors or volume claim templates."""
    newer = copy_of_chart(tmp_path, f"version: {__version__}", "version: 9.9.9")
    assert immutable_fields(render()) == immutable_fields(
        render(Variant(settings=("inference.workers=3", "logLevel=debug")), chart=newer)
    )


def test_an_account_that_the_previous_release_does_not_name_goes_with_a_rollback(
    tmp_path: Path,
) -> None:
    """The API server copies one of both fields into the other, and Helm removes only its own."""
    previous = unpack(next(iter(commits())), tmp_path) / "charts" / "fraudops"
    accounts = "postgresql.serviceAccount.create=true"
    before = specs(render(chart=previous))
    after = specs(render(Variant(settings=(accounts,))))
    new = {name for name, spec in after.items() if name in before and account_of(spec)} - {
        name for name, spec in before.items() if account_of(spec)
    }
    assert new == {"Deployment fraudops-mlflow", "StatefulSet fraudops-postgresql"}
    for name in new:
        assert after[name]["serviceAccount"] == after[name]["serviceAccountName"], name


def specs(manifests: list[Manifest]) -> dict[str, Manifest]:
    """Return the pod specs of the workloads that outlive a release."""
    templates = {
        title(manifest): pod_template(manifest)
        for manifest in kinds(manifests, "Deployment", "StatefulSet", "CronJob")
    }
    return {name: template["spec"] for name, template in templates.items() if template}


def account_of(spec: Manifest) -> str:
    return str(spec.get("serviceAccountName", ""))
