"""Metadata of the objects that outlive a release, so that no GitOps tool deletes them.

The setup Job makes these objects: Secrets, the serving record, the lock, the data claim. They are
in no manifest. Argo CD deletes an object with its tracking label that is in no manifest. That label
was `app.kubernetes.io/instance` up to Argo CD 2.14, and release 0.2.0 wrote it on these objects.
"""

from collections.abc import Mapping
from typing import Any

RELEASE_LABEL = "fraudops.io/release"
MANAGER_LABEL = "app.kubernetes.io/managed-by"
NAME_LABEL = "app.kubernetes.io/name"
TRACKING_LABEL = "app.kubernetes.io/instance"
# The setup Job marks the serving record of a new release. The first commit removes the mark.
NEVER_NAMED = "fraudops.io/never-named"
# They count where a site has given these objects the tracking label itself.
KEPT_BY_ARGO_CD = {
    "argocd.argoproj.io/sync-options": "Prune=false,Delete=false",
    "argocd.argoproj.io/compare-options": "IgnoreExtraneous",
}


def kept_metadata(name: str, release: str) -> dict[str, Any]:
    """Return the metadata of a new object of the release."""
    labels = {NAME_LABEL: "fraudops", MANAGER_LABEL: "fraudops-setup", RELEASE_LABEL: release}
    return {"name": name, "labels": labels, "annotations": dict(KEPT_BY_ARGO_CD)}


def is_marked(record: Mapping[str, Any]) -> bool:
    """Whether the ConfigMap of the record has the mark that it has never named a model."""
    return NEVER_NAMED in (record["metadata"].get("annotations") or {})


def adoption(found: dict[str, Any], release: str) -> dict[str, Any]:
    """Return the merge patch of the metadata of an object that release 0.2.0 has made.

    It is empty for every other object. An object of the site may have the same name, and its labels
    belong to the site.
    """
    labels = found["metadata"].get("labels") or {}
    # 0.2.0 wrote exactly these two labels. Objects of Helm and of this release name their manager.
    earlier = (labels.get(NAME_LABEL), labels.get(TRACKING_LABEL)) == ("fraudops", release)
    if not earlier or MANAGER_LABEL in labels:
        return {}
    change = kept_metadata(found["metadata"]["name"], release)
    del change["name"]
    return change | {
        "labels": change["labels"] | {TRACKING_LABEL: None},
        # The API refuses the patch if the object has changed since it was read.
        "resourceVersion": found["metadata"]["resourceVersion"],
    }
