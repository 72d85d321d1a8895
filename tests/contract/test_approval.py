"""The caller's name and approvals on the fake API server."""

from tests.support.cluster_approval import ApprovalContract


class TestFakeApi(ApprovalContract):
    pass
