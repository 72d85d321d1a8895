"""The rules of the Kubernetes API for stored objects: patches, selectors, deletion, errors.

Each rule was seen on a Kubernetes 1.34 API server. `kube_api_contract` holds them to it.
"""

import copy
import re
from dataclasses import dataclass
from typing import Any

Object = dict[str, Any]
TEST_FAILED = "the server rejected our request due to an error in our request"
MICRO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[+-]\d\d:\d\d)")


@dataclass(frozen=True)
class Resource:
    """A kind of objects, as the API's paths and messages name it."""

    group: str
    version: str
    plural: str
    kind: str

    @property
    def api_version(self) -> str:
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def name(self) -> str:
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def details(self, name: str = "") -> Object:
        given = {"name": name, "group": self.group, "kind": self.plural}
        return {key: value for key, value in given.items() if value}


RESOURCES = {
    resource.plural: resource
    for resource in (
        Resource("", "v1", "configmaps", "ConfigMap"),
        Resource("", "v1", "pods", "Pod"),
        Resource("", "v1", "events", "Event"),
        Resource("", "v1", "nodes", "Node"),
        Resource("", "v1", "namespaces", "Namespace"),
        Resource("apps", "v1", "deployments", "Deployment"),
        Resource("batch", "v1", "jobs", "Job"),
        Resource("coordination.k8s.io", "v1", "leases", "Lease"),
        Resource("authentication.k8s.io", "v1", "selfsubjectreviews", "SelfSubjectReview"),
    )
}
CLUSTER_SCOPED = frozenset({"nodes", "namespaces", "selfsubjectreviews"})
GRACE_SECONDS = 30


class StatusError(Exception):
    """An answer of the API that is not a success."""

    def __init__(self, code: int, reason: str, message: str, details: Object | None = None) -> None:
        super().__init__(message)
        body: Object = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure"}
        body |= {"message": message, "code": code}
        body |= {"reason": reason} if reason else {}
        self.code, self.body = code, body | ({} if details is None else {"details": details})


def not_found(resource: Resource, name: str) -> StatusError:
    message = f'{resource.name} "{name}" not found'
    return StatusError(404, "NotFound", message, resource.details(name))


def already_exists(resource: Resource, name: str) -> StatusError:
    message = f'{resource.name} "{name}" already exists'
    return StatusError(409, "AlreadyExists", message, resource.details(name))


def modified(resource: Resource, name: str) -> StatusError:
    message = (
        f'Operation cannot be fulfilled on {resource.name} "{name}": the object has been modified; '
        "please apply your changes to the latest version and try again"
    )
    return StatusError(409, "Conflict", message, resource.details(name))


def forbidden(resource: Resource, namespace: str, name: str, user: str, verb: str) -> StatusError:
    what = f'{resource.name} "{name}"' if name else resource.name
    where = f'in the namespace "{namespace}"' if namespace else "at the cluster scope"
    message = (
        f'{what} is forbidden: User "{user}" cannot {verb} resource "{resource.plural}" '
        f'in API group "{resource.group}" {where}'
    )
    return StatusError(403, "Forbidden", message, resource.details(name))


def invalid(field: str, message: str) -> StatusError:
    cause = {"reason": "FieldValueInvalid", "message": message, "field": field}
    return StatusError(422, "Invalid", f" {field} is invalid: {message}", {"causes": [cause]})


def patched(found: Object, content_type: str, change: Any) -> Object:
    """Return the object after a merge patch (RFC 7396) or a JSON patch (RFC 6902)."""
    if content_type == "application/merge-patch+json":
        return dict(_merged(found, change))
    if content_type == "application/json-patch+json":
        try:
            return _json_patched(found, change)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise StatusError(422, "Invalid", TEST_FAILED, {}) from error
    raise StatusError(415, "UnsupportedMediaType", f"the body is of {content_type}")


def _merged(found: Any, change: Any) -> Any:
    if not isinstance(change, dict):
        return change
    merged = dict(found) if isinstance(found, dict) else {}
    for key, value in change.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = _merged(merged.get(key), value)
    return merged


def _json_patched(found: Object, operations: list[Object]) -> Object:
    """Apply all operations or none. Objects only; the product patches no arrays."""
    patched = copy.deepcopy(found)
    for operation in operations:
        *parents, last = [
            part.replace("~1", "/").replace("~0", "~") for part in operation["path"].split("/")[1:]
        ]
        place = patched
        for part in parents:
            place = place[part]
        match operation["op"]:
            case "add":
                place[last] = operation["value"]
            case "replace" if last in place:
                place[last] = operation["value"]
            case "remove":
                del place[last]
            # A `test` for null succeeds where the key is absent.
            case "test" if place.get(last) == operation["value"]:
                pass
            case other:
                raise ValueError(f"{other} {operation['path']}")
    return patched


def checked(resource: Resource, item: Object) -> Object:
    """Return the object as the API stores it. Raises StatusError if a field is invalid."""
    item = copy.deepcopy(item)
    if resource.plural == "leases":
        spec = item.setdefault("spec", {})
        for field in ("renewTime", "acquireTime"):
            if spec.get(field) is not None and not MICRO_TIME.fullmatch(spec[field]):
                raise invalid(f"spec.{field}", f'cannot parse "{spec[field]}"')
    if resource.plural == "configmaps":
        for key, value in (item.get("data") or {}).items():
            if not isinstance(value, str):
                raise invalid(f"data[{key}]", f"{value} is not a string")
    template = (item.get("spec") or {}).get("template") or {}
    # The API drops empty maps: an annotation that is removed last removes `annotations` too.
    for place in (item, item["metadata"], template.get("metadata") or {}):
        for field in ("annotations", "labels", "data"):
            if place.get(field) == {}:
                del place[field]
    return item


def limited(resource: Resource, subresource: str, old: Object, new: Object) -> Object:
    """Return `new` with the part as it was that this path may not change.

    `/status` leaves the specification, and the object's own path leaves the status.
    """
    if resource.plural not in ("pods", "nodes", "deployments"):
        return new
    kept = "spec" if subresource == "status" else "status"
    rest = {key: value for key, value in new.items() if key != kept}
    return rest | ({kept: old[kept]} if kept in old else {})


def matches(item: Object, selector: str) -> bool:
    """Apply a label selector of the forms `a=1`, `a==1`, `a!=1`, `a` and `!a`."""
    labels = item["metadata"].get("labels") or {}
    for requirement in filter(None, selector.split(",")):
        found = re.fullmatch(r"(!?)([\w./-]+)(?:(==|=|!=)([\w.-]*))?", requirement)
        if found is None:
            raise StatusError(400, "BadRequest", f"unable to parse requirement: {requirement}")
        absent, key, operator, value = found.groups()
        if operator is None:
            fits = (key in labels) != bool(absent)
        else:
            fits = (labels.get(key) == value) == (operator != "!=")
        if not fits:
            return False
    return True


def grace_of(resource: Resource, item: Object, options: Object) -> int:
    """Return the seconds after which the object shall be gone. 0 removes it immediately.

    Only a pod on a node ends gracefully: its kubelet must stop the containers first.
    """
    phase = (item.get("status") or {}).get("phase")
    if resource.plural != "pods" or not item["spec"].get("nodeName"):
        return 0
    if phase in ("Succeeded", "Failed"):
        return 0
    own = item["spec"].get("terminationGracePeriodSeconds", GRACE_SECONDS)
    asked = options.get("gracePeriodSeconds")
    return int(own if asked is None else asked)
