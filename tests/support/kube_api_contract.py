"""The behaviour of the Kubernetes API that the adapters rely on.

The same tests run on the fake of tests/support/kube_api.py and on a real API server.
"""

import json
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Any

from fraudops.cluster.api import CONTENT_TYPES, Cluster
from tests.support.cluster_objects import (
    create_configmap,
    create_deployment,
    create_lease,
    create_pod,
    remove_pod,
)
from tests.support.kube_objects import TEST_FAILED

ANNOTATIONS = "/spec/template/metadata/annotations"


class Answer:
    """Status, body and the server's time of one answer."""

    def __init__(self, status: int, body: Any, date: str) -> None:
        self.status, self.body, self.at = status, body, parsedate_to_datetime(date)

    @property
    def failure(self) -> tuple[int, Any, Any]:
        """The code, the reason and the message of a Status."""
        assert (self.body["kind"], self.body["apiVersion"]) == ("Status", "v1")
        assert (self.body["status"], self.body["code"]) == ("Failure", self.status)
        return self.status, self.body.get("reason"), self.body["message"]

    @property
    def version(self) -> str:
        return str(self.body["metadata"]["resourceVersion"])


async def ask(
    cluster: Cluster, method: str, path: str, body: Any = None, patch: str = "", selector: str = ""
) -> Answer:
    content_type = CONTENT_TYPES.get(patch, "application/json")
    query = {"labelSelector": selector} if selector else None
    answer = await cluster._request(method, path, query, body, content_type)
    return Answer(answer.status, json.loads(await answer.read()), answer.headers["Date"])


class KubeApiContract:
    """Tests of an API server.

    The fixture `cluster` is an administrator's client of an empty namespace. `stranger` is a client
    of the same namespace whose user has no rights.
    """

    async def test_a_created_object_has_what_the_server_adds(self, cluster: Cluster) -> None:
        path = cluster.path("v1", "configmaps")
        made = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "a"},
            "data": {"k": "v"},
        }
        answer = await ask(cluster, "POST", path, made)
        metadata = answer.body["metadata"]
        assert (answer.status, answer.body["data"]) == (201, {"k": "v"})
        assert (metadata["name"], metadata["namespace"]) == ("a", cluster.namespace)
        assert metadata["uid"]
        assert int(metadata["resourceVersion"]) > 0
        created = datetime.fromisoformat(metadata["creationTimestamp"])
        assert abs(created - answer.at) <= timedelta(seconds=5)

    async def test_an_object_is_created_once(self, cluster: Cluster) -> None:
        path = await create_configmap(cluster, "a")
        again = await ask(cluster, "POST", path.rpartition("/")[0], {"metadata": {"name": "a"}})
        assert again.failure == (409, "AlreadyExists", 'configmaps "a" already exists')
        assert again.body["details"] == {"name": "a", "kind": "configmaps"}

    async def test_a_missing_object_kind_or_namespace_is_not_found(self, cluster: Cluster) -> None:
        found = cluster.path("v1", "configmaps", "none")
        for method, body in (("GET", None), ("PATCH", {"data": {"k": "v"}}), ("DELETE", None)):
            answer = await ask(cluster, method, found, body, "merge" if body else "")
            assert answer.failure == (404, "NotFound", 'configmaps "none" not found')
            assert answer.body["details"] == {"name": "none", "kind": "configmaps"}
        deployment = await ask(cluster, "GET", cluster.path("apps/v1", "deployments", "none"))
        assert deployment.failure[2] == 'deployments.apps "none" not found'
        assert deployment.body["details"] == {
            "name": "none",
            "group": "apps",
            "kind": "deployments",
        }
        kind = await ask(cluster, "GET", cluster.path("v1", "widgets"))
        assert kind.failure == (
            404,
            "NotFound",
            "the server could not find the requested resource",
        )
        elsewhere = "/api/v1/namespaces/no-such-namespace/configmaps"
        namespace = await ask(cluster, "POST", elsewhere, {"metadata": {"name": "a"}})
        assert namespace.failure == (404, "NotFound", 'namespaces "no-such-namespace" not found')

    async def test_a_merge_patch_changes_what_it_names_and_null_removes(
        self, cluster: Cluster
    ) -> None:
        path = await create_configmap(cluster, "a", {"k": "v", "kept": "x"}, {"l": "1"})
        await ask(cluster, "PATCH", path, {"data": {"k": "w", "new": "y"}}, "merge")
        stored = await ask(cluster, "GET", path)
        assert stored.body["data"] == {"k": "w", "kept": "x", "new": "y"}
        change = {"data": {"k": None, "kept": None, "new": None}}
        emptied = await ask(cluster, "PATCH", path, change, "merge")
        assert "data" not in emptied.body
        assert emptied.body["metadata"]["labels"] == {"l": "1"}

    async def test_versions_only_grow_and_a_change_of_nothing_keeps_the_version(
        self, cluster: Cluster
    ) -> None:
        path = await create_configmap(cluster, "a", {"k": "0"})
        versions = [(await ask(cluster, "GET", path)).version]
        for value in ("1", "2"):
            change = {"data": {"k": value}}
            versions.append((await ask(cluster, "PATCH", path, change, "merge")).version)
            assert (await ask(cluster, "PATCH", path, change, "merge")).version == versions[-1]
        other = await ask(cluster, "GET", await create_configmap(cluster, "b"))
        numbers = [int(version) for version in [*versions, other.version]]
        assert numbers == sorted(set(numbers))

    async def test_a_patch_with_an_old_version_is_a_conflict(self, cluster: Cluster) -> None:
        path = await create_configmap(cluster, "a", {"k": "0"})
        first = (await ask(cluster, "GET", path)).version
        for value, status in (("1", 200), ("2", 409)):
            change = {"metadata": {"resourceVersion": first}, "data": {"k": value}}
            answer = await ask(cluster, "PATCH", path, change, "merge")
            assert answer.status == status
        assert answer.failure[1:] == (
            "Conflict",
            'Operation cannot be fulfilled on configmaps "a": the object has been modified; please '
            "apply your changes to the latest version and try again",
        )
        assert (await ask(cluster, "GET", path)).body["data"] == {"k": "1"}

    async def test_a_json_patch_whose_test_fails_changes_nothing(self, cluster: Cluster) -> None:
        path = await create_deployment(cluster, "a", {"k/x": "1"})
        pointer = f"{ANNOTATIONS}/k~1x"
        patches: list[list[dict[str, Any]]] = [
            [
                {"op": "add", "path": f"{ANNOTATIONS}/other", "value": "2"},
                {"op": "test", "path": pointer, "value": "2"},
            ],
            [{"op": "test", "path": pointer, "value": None}],
            [{"op": "test", "path": ANNOTATIONS, "value": None}],
            [{"op": "test", "path": f"{ANNOTATIONS}/none", "value": "1"}],
            [{"op": "remove", "path": f"{ANNOTATIONS}/none"}],
            [{"op": "test", "path": "/none/deep", "value": None}],
        ]
        for patch in patches:
            answer = await ask(cluster, "PATCH", path, patch, "json")
            assert answer.failure == (422, "Invalid", TEST_FAILED), patch
            assert answer.body["details"] == {}
        stored = (await ask(cluster, "GET", path)).body["spec"]["template"]["metadata"]
        assert stored["annotations"] == {"k/x": "1"}

    async def test_a_json_patch_tests_null_for_what_is_absent(self, cluster: Cluster) -> None:
        path = await create_deployment(cluster, "a")
        patch = [
            {"op": "test", "path": ANNOTATIONS, "value": None},
            {"op": "add", "path": ANNOTATIONS, "value": {}},
            {"op": "test", "path": f"{ANNOTATIONS}/k~1x", "value": None},
            {"op": "add", "path": f"{ANNOTATIONS}/k~1x", "value": "1"},
        ]
        answer = await ask(cluster, "PATCH", path, patch, "json")
        assert answer.body["spec"]["template"]["metadata"]["annotations"] == {"k/x": "1"}
        remove = [{"op": "remove", "path": f"{ANNOTATIONS}/k~1x"}]
        emptied = await ask(cluster, "PATCH", path, remove, "json")
        assert "annotations" not in emptied.body["spec"]["template"]["metadata"]

    async def test_an_invalid_object_names_the_causes(self, cluster: Cluster) -> None:
        lease = await create_lease(cluster, "a")
        refused = await ask(
            cluster, "PATCH", lease, {"spec": {"renewTime": "2026-11-29T10:00:00Z"}}, "merge"
        )
        config_map = await create_configmap(cluster, "a")
        for answer in (
            refused,
            await ask(cluster, "PATCH", config_map, {"data": {"k": 1}}, "merge"),
        ):
            assert answer.failure[:2] == (422, "Invalid")
            assert answer.body["details"]["causes"][0]["reason"] == "FieldValueInvalid"

    async def test_a_lease_without_a_spec_has_an_empty_one(self, cluster: Cluster) -> None:
        path = await create_lease(cluster, "a")
        assert (await ask(cluster, "GET", path)).body["spec"] == {}
        spec = {"holderIdentity": "", "renewTime": "2026-11-29T10:00:00.000001Z"}
        written = await ask(cluster, "PATCH", path, {"spec": spec}, "merge")
        assert written.body["spec"] == spec

    async def test_a_list_has_the_objects_that_the_selector_matches(self, cluster: Cluster) -> None:
        for name, labels in (("a", {"x": "1", "y": "2"}), ("b", {"x": "1"}), ("c", {})):
            await create_configmap(cluster, name, {"of": name}, labels)
        path = cluster.path("v1", "configmaps")
        # A real cluster adds a ConfigMap with the API server's certificate to each namespace.
        for selector, names in (
            ("x=1,y=2", ["a"]),
            ("x=1", ["a", "b"]),
            ("x=1,y!=2", ["b"]),
            ("x,!y", ["b"]),
            ("x=2", []),
        ):
            found = await ask(cluster, "GET", path, selector=selector)
            assert found.body["kind"] == "ConfigMapList"
            assert [item["metadata"]["name"] for item in found.body["items"]] == names
        assert "kind" not in (await ask(cluster, "GET", path, selector="x")).body["items"][0]
        broken = await ask(cluster, "GET", path, selector="x in (1")
        assert broken.failure[:2] == (400, "BadRequest")

    async def test_a_pod_on_a_node_ends_after_its_grace_period(self, cluster: Cluster) -> None:
        path = await create_pod(cluster, "a", node="no-such-node", grace_seconds=20)
        answer = await ask(cluster, "DELETE", path)
        deletion = answer.body["metadata"]
        assert (answer.status, deletion["deletionGracePeriodSeconds"]) == (200, 20)
        # The timestamp is the end of the grace period, not the time of the request.
        ends = datetime.fromisoformat(deletion["deletionTimestamp"])
        assert timedelta(seconds=18) <= ends - answer.at <= timedelta(seconds=22)
        # A second request cannot put the end off.
        longer = {"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 100}
        again = await ask(cluster, "DELETE", path, longer)
        assert again.body["metadata"]["deletionTimestamp"] == deletion["deletionTimestamp"]
        listed = await ask(cluster, "GET", path.rpartition("/")[0])
        assert [item["metadata"]["name"] for item in listed.body["items"]] == ["a"]
        await remove_pod(cluster, "a")
        assert (await ask(cluster, "GET", path)).status == 404

    async def test_a_pod_on_no_node_is_gone_immediately(self, cluster: Cluster) -> None:
        path = await create_pod(cluster, "a", node=None)
        answer = await ask(cluster, "DELETE", path)
        assert answer.body["metadata"]["deletionGracePeriodSeconds"] == 0
        assert (await ask(cluster, "GET", path)).status == 404

    async def test_a_status_is_changed_only_under_its_own_path(self, cluster: Cluster) -> None:
        path = await create_pod(cluster, "a", node="no-such-node")
        status = {"status": {"podIP": "127.0.0.1"}}
        await ask(cluster, "PATCH", path, status, "merge")
        assert "podIP" not in (await ask(cluster, "GET", path)).body["status"]
        labels = {"metadata": {"labels": {"x": "1"}}}
        await ask(cluster, "PATCH", path, labels, "merge")
        both = status | {"spec": {"activeDeadlineSeconds": 5}}
        await ask(cluster, "PATCH", f"{path}/status", both, "merge")
        stored = (await ask(cluster, "GET", path)).body
        assert "activeDeadlineSeconds" not in stored["spec"]
        assert (stored["status"]["podIP"], stored["metadata"]["labels"]["x"]) == ("127.0.0.1", "1")

    async def test_an_object_without_grace_is_deleted_immediately(self, cluster: Cluster) -> None:
        path = await create_configmap(cluster, "a")
        answer = await ask(cluster, "DELETE", path)
        assert (answer.body["kind"], answer.body["status"]) == ("Status", "Success")
        assert (await ask(cluster, "GET", path)).status == 404

    async def test_a_user_without_the_right_is_forbidden_before_anything_else(
        self, cluster: Cluster, stranger: Cluster
    ) -> None:
        missing = await ask(stranger, "GET", cluster.path("v1", "configmaps", "none"))
        assert missing.failure[:2] == (403, "Forbidden")
        assert f'in the namespace "{cluster.namespace}"' in missing.failure[2]
        assert 'cannot get resource "configmaps" in API group ""' in missing.failure[2]
        node = await ask(stranger, "GET", "/api/v1/nodes/none")
        assert 'cannot get resource "nodes"' in node.failure[2]
        assert "at the cluster scope" in node.failure[2]
        path = await create_configmap(cluster, "a")
        patch = await ask(stranger, "PATCH", path, {"data": {"k": "v"}}, "merge")
        assert 'cannot patch resource "configmaps"' in patch.failure[2]
        assert "data" not in (await ask(cluster, "GET", path)).body
        listed = await ask(stranger, "GET", cluster.path("v1", "pods"))
        assert listed.failure[2].startswith("pods is forbidden: ")
        assert 'cannot list resource "pods"' in listed.failure[2]

    async def test_the_date_of_an_answer_is_the_time_of_the_server(self, cluster: Cluster) -> None:
        answer = await ask(cluster, "GET", cluster.path("v1", "configmaps"))
        assert answer.at.tzinfo == UTC
        assert abs(answer.at - datetime.now(UTC)) < timedelta(minutes=5)
