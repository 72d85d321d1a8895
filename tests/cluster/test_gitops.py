"""The prune of a GitOps tool breaks nothing, and a second apply changes nothing."""

import json
from dataclasses import replace

import yaml

from fraudops.cluster.kept import MANAGER_LABEL, NAME_LABEL, RELEASE_LABEL, TRACKING_LABEL
from tests.cluster.neighbours import in_namespace, values_of_neighbour
from tests.cluster.release import CHART, Object, Release, until

# What Argo CD never looks at: tests/chart/argo_exclusions.yaml.
UNSEEN = {"endpoints", "endpointslices.discovery.k8s.io", "leases.coordination.k8s.io"}
Title = tuple[str, str]


def test_a_prune_by_the_tracking_label_leaves_a_whole_system(release: Release) -> None:
    """Argo CD up to 2.14 deletes each object with its label that is in no manifest."""
    release.agreed()
    before = uids_of_kept(release)
    assert {("ConfigMap", "fraudops-serving"), ("Lease", "fraudops-promotion")} <= before.keys()
    for kind, name in sorted(tracked(release) - set(map(title, rendered(release)))):
        # The pod of an earlier test's client may end meanwhile.
        release.kubectl("delete", kind, name, "--ignore-not-found", "--wait=false")
    assert uids_of_kept(release) == before
    as_of_earlier_release(release)
    promoted = release.promote(release.new_version(13))
    assert promoted.exit_code == 0, promoted.output
    release.agreed()
    release.helm("test", release.name)
    # The reconciler does it, with the lock.
    until(lambda: RELEASE_LABEL in labels_of_record(release), 150, "the record has new labels")
    assert TRACKING_LABEL not in labels_of_record(release)
    assert uids_of_kept(release) == before


def test_manifests_that_are_applied_again_change_nothing(release: Release) -> None:
    """In an empty namespace and without Helm the setup Job makes what is in no manifest."""
    own = replace(release, values=values_of_neighbour(release))
    with in_namespace(own, "applied") as applied:
        manifests = yaml.safe_dump_all(rendered(applied, "bootstrap.enabled=false"))
        applied.kubectl("apply", "-f", "-", stdin=manifests)
        setup = "app.kubernetes.io/component=setup"
        applied.kubectl("wait", "job", "-l", setup, "--for=condition=Complete", "--timeout=240s")
        assert ("Lease", "fraudops-promotion") in uids_of_kept(applied)
        # kubectl calls some objects "configured" that it does not change, so compare them.
        before = stored(applied, manifests)
        applied.kubectl("apply", "-f", "-", stdin=manifests)
        assert stored(applied, manifests) == before


def rendered(release: Release, *sets: str) -> list[Object]:
    """Return the objects of the manifests; Argo CD applies no hook of this chart."""
    chosen = [argument for value in sets for argument in ("--set", value)]
    with release.values_file() as values:
        text = release.helm(
            *("template", release.name, str(CHART), "--values", values, "--no-hooks", *chosen)
        )
    return [document for document in yaml.safe_load_all(text) if document]


def stored(release: Release, manifests: str) -> dict[Title, Object]:
    """Return the objects of the manifests without what the cluster's controllers write."""
    items = json.loads(release.kubectl("get", "-f", "-", "-o", "json", stdin=manifests))["items"]
    found = dict[Title, Object]()
    for item in items:
        # The name of its volume is in the spec of a claim.
        item.get("spec", {}).pop("volumeName", None)
        labels = item["metadata"].get("labels")
        rest = {key: item[key] for key in item.keys() - {"metadata", "status"}}
        found[title(item)] = rest | {"labels": labels}
    return found


def title(item: Object) -> Title:
    return item["kind"], item["metadata"]["name"]


def tracked(release: Release) -> set[Title]:
    """Return the objects that Argo CD takes for those of an Application with this name.

    It takes a StatefulSet for the owner of its claims.
    """
    listed = release.kubectl("api-resources", "--namespaced", "--verbs=list,delete", "-o", "name")
    kinds = ",".join(sorted(set(listed.split()) - UNSEEN))
    items = release.get(kinds, "-l", f"{TRACKING_LABEL}={release.name}")["items"]
    claims = {
        f"{template['metadata']['name']}-{owner['metadata']['name']}-"
        for owner in items
        if owner["kind"] == "StatefulSet"
        for template in owner["spec"].get("volumeClaimTemplates", [])
    }
    return {
        title(item)
        for item in items
        if not item["metadata"].get("ownerReferences")
        and not any(item["metadata"]["name"].startswith(claim) for claim in claims)
    }


def uids_of_kept(release: Release) -> dict[Title, str]:
    """Return the UIDs of the setup Job's objects, without those that are being deleted."""
    kinds, label = "secrets,configmaps,leases,pvc", f"{NAME_LABEL}=fraudops"
    items = release.get(kinds, "-l", label)["items"]
    manifests = set(map(title, rendered(release)))
    return {
        title(item): item["metadata"]["uid"]
        for item in items
        # A deleted claim is there until no pod mounts it.
        if title(item) not in manifests and "deletionTimestamp" not in item["metadata"]
    }


def as_of_earlier_release(release: Release) -> None:
    """Label the record as the setup Job of release 0.2.0 did."""
    labels = (f"{TRACKING_LABEL}={release.name}", f"{MANAGER_LABEL}-", f"{RELEASE_LABEL}-")
    release.kubectl("label", "--overwrite", "configmap", f"{release.name}-serving", *labels)


def labels_of_record(release: Release) -> dict[str, str]:
    record = release.get("configmap", f"{release.name}-serving")
    return dict(record["metadata"]["labels"])
